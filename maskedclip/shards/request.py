"""What one build of shards is asked for: the flags of tools/make_shards.py, checked."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Request:
    """One dataset to build; the fields are the flags of tools/make_shards.py."""

    dataset: str
    root: Path | None = None  # folder of the download (phantom has none)
    out: Path | None = None  # where the shards go; None: shards/NAME
    name: str = ""  # that the shards carry; empty: DATASET
    size: int = 512  # pixels; a larger field of view is reduced to it, none is enlarged
    quality: int = 95  # of the JPEGs
    workers: int = 0  # processes; 0 for all cores
    samples_per_shard: int = 1000
    anonymise: bool = False  # hash the file names too, with a secret key
    key_file: Path | None = None  # that key; None: OUT/../.maskedclip_key, made at first use
    classes: str = ""  # folder: the task whose class the folder of an image is
    csv: Path | None = None  # csv: the table; the following name its columns
    image_column: str = ""  # file name or path; needed
    label_column: str = ""  # with --task
    task: str = ""  # what the label is called
    patient_column: str = ""
    eye_column: str = ""
    split_column: str = ""
    report_column: str = ""
    categories_column: str = ""
    count: int = 2000  # phantom: how many images are drawn
    seed: int = 0  # phantom: and which
    caption_template: str = "A fundus photograph of [CLS]"  # of the examples that are printed
    jobs: int = 1  # that share the build out
    cluster: str = "auto"  # slurm where sbatch is, else local: this machine
    hours: int = 24  # time limit of a job on slurm; a longer build goes on after it
    partition: str = ""
    account: str = ""
    qos: str = ""
    memory_gb: int = 0  # of a job, asked of slurm

    def __post_init__(self) -> None:
        limits = {
            "size": (32, 8192),
            "quality": (50, 100),
            "workers": (0, 1024),
            "samples_per_shard": (1, 100_000),
            "jobs": (1, 1000),
            "hours": (1, 10_000),
            "memory_gb": (0, 100_000),
            "count": (1, 10**8),
            "seed": (0, 10**8),
        }
        for flag, (low, high) in limits.items():
            if not low <= getattr(self, flag) <= high:
                found = getattr(self, flag)
                raise ValueError(f"--{flag} {found} is out of range; use {low} to {high}")
        if self.cluster not in ("auto", "slurm", "local"):
            raise ValueError(f"--cluster {self.cluster}: use auto, slurm or local")
        if "[CLS]" not in self.caption_template:
            found = self.caption_template
            raise ValueError(f"--caption_template {found!r} has no [CLS]; put it where words go")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.dataset_name):
            raise ValueError(f"--name {self.dataset_name!r}: use letters, digits, _ and - only")

    @property
    def dataset_name(self) -> str:
        """The name that the shards carry."""
        return self.name or Path(self.dataset).stem

    @property
    def directory(self) -> Path:
        """Where the shards go."""
        return self.out or Path("shards") / self.dataset_name
