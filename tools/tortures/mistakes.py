"""What users type wrongly: flags, paths, tables, splits; each ends in one line, exit code 2."""

import shutil
from pathlib import Path
from typing import NamedTuple

import simplejpeg
from tortures.commands import run

from maskedclip.config import override
from maskedclip.shards.phantoms.phantom import draw
from tests.conftest import a_small_run, small_phantoms
from tests.jobs.test_torchrun import flags


class Fixtures(NamedTuple):
    """What the cases have in common: shards, a run of six steps with its checkpoint."""

    folder: Path
    shards: Path
    jpeg: bytes

    def pretrain(self, out: Path) -> list[str]:
        config = override(a_small_run(self._phantoms(), out), {"optim.steps": 6})
        return ["-m", "maskedclip.pretrain", "demo", *flags(config)]

    def _phantoms(self) -> dict[str, Path]:
        return {path.name: path for path in (self.folder / "shards").iterdir()}

    def copy_of_run(self, out: Path) -> Path:
        """Copy the run that is not done yet; return the checkpoint that it goes on from."""
        shutil.copytree(self.folder / "runs", out / "runs")
        run_ = out / "runs" / "small"
        for name in ("model.safetensors", "encoder.safetensors"):
            (run_ / name).unlink()
        shutil.rmtree(run_ / "checkpoints" / "step-00000006")
        return run_ / "checkpoints" / "step-00000003"

    def names(self, place: Path) -> dict[str, str]:
        """Return what stands for the names in a line of MISTAKES."""
        return {
            "shards": str(self.shards), "run": str(self.folder / "runs" / "small"),
            "tables": str(self.folder / "tables"), "place": str(place),
            "paired": str(self.folder / "shards" / "paired"),
        }  # fmt: skip


def prepared(folder: Path) -> Fixtures:
    """Write the shards, the run and the tables."""
    shards = small_phantoms(folder / "shards")
    jpeg = simplejpeg.encode_jpeg(draw(1, 96).image_HWC)
    fixtures = Fixtures(folder, shards["heldout"], jpeg)
    ended = run(fixtures.pretrain(folder), folder)
    if ended.code:
        raise RuntimeError(f"the run that the cases begin with has failed: {ended.err}")
    tables = folder / "tables"
    (tables / "eyes").mkdir(parents=True)
    for number in range(4):
        (tables / "eyes" / f"{number}.jpg").write_bytes(jpeg)
    (tables / "none.csv").write_text("")
    (tables / "quote.csv").write_text('image,grade\n"0.jpg,1\n1.jpg,2\n')
    (tables / "other.csv").write_text("image,grade\nx.jpg,1\ny.jpg,2\n")
    (tables / "split.csv").write_text("source,split\n0.jpg,learn\n")
    (tables / "toml.toml").write_text("name = [")
    return fixtures


PRETRAIN = ("-m", "maskedclip.pretrain", "demo", "--name=x")
LAUNCH = ("launchers/submit_pretrain.py", "demo", "--cluster=local", "--name=x")
FINETUNE = ("-m", "maskedclip.finetune", "random", "--size=micro", "--name=x")
TUNED = (*FINETUNE, "--dataset={shards}", "--task=disease", "--epochs=1",
         "--warmup_epochs=0", "--image_size=32")  # fmt: skip
FOLDER = ("tools/make_shards.py", "folder", "--root={tables}", "--out={place}/out")
CSV = ("tools/make_shards.py", "csv", "--root={tables}/eyes", "--out={place}/o",
       "--image_column=image", "--label_column=grade")  # fmt: skip
MISTAKES: list[tuple[str, ...]] = [
    # pre-training: flags
    ("-m", "maskedclip.pretrain", "dmo"),
    ("-m", "maskedclip.pretrain", "demo", "tiny"),
    ("-m", "maskedclip.pretrain"),
    (*PRETRAIN, "--optim.base_lrr=1"),
    (*PRETRAIN, "--optim.steps=soon"),
    (*PRETRAIN, "--optim.steps=1.5"),
    (*PRETRAIN, "--optim.steps=-1"),
    (*PRETRAIN, "--optim.steps"),
    (*PRETRAIN, "--optim.accumulate=0"),
    (*PRETRAIN, "--optim.betas=0.9"),
    (*PRETRAIN, "--model.size=huge"),
    (*PRETRAIN, "--model.image_size=100"),
    (*PRETRAIN, "--model.mask_ratio=1"),
    (*PRETRAIN, "--model.text=nobody/nothing"),
    (*PRETRAIN, "--loss.clip=-1"),
    (*PRETRAIN, "--data.crop_area=0.5,0.2"),
    (*PRETRAIN, "--data.caption_template=an eye"),
    (*PRETRAIN, "--data.max_lost=3"),
    (*PRETRAIN, "--engine.precision=fp8"),
    (*PRETRAIN, "--engine.save_every=often"),
    (*PRETRAIN, "--seed=-1"),
    (*PRETRAIN, "--name=../../x"),
    (*PRETRAIN, "\N{EN DASH}seed=1"),
    (*PRETRAIN, "--method=dino"),
    # pre-training: data and weights
    (*PRETRAIN, "--data.paired=nowhere"),
    (*PRETRAIN, "--data.paired={tables}"),
    (*PRETRAIN, "--data.paired={tables}/none.csv"),
    (*PRETRAIN, "--data.paired=http://host/shards"),
    (*PRETRAIN, "--data.paired={paired}", "--data.paired_weights=1,2"),
    (*PRETRAIN, "--data.paired={paired}", "--data.unpaired=nowhere"),
    (*PRETRAIN, "--init_from=nowhere.pth"),
    (*PRETRAIN, "--init_from={tables}"),
    (*PRETRAIN, "--after.datasets=nowhere"),
    (*PRETRAIN, "--after.datasets={shards}", "--after.task=nothing"),
    (*PRETRAIN, "--after.protocols=guess"),
    (*PRETRAIN, "--out={tables}/none.csv"),
    # launching
    (*LAUNCH, "--gpus=99"),
    (*LAUNCH, "--gpu=1"),
    (*LAUNCH, "--nodes=2"),
    (*LAUNCH, "--hours=0.005"),
    (*LAUNCH, "--profile=nobody"),
    ("launchers/submit_pretrain.py", "demo", "--cluster=slrm"),
    # fine-tuning, evaluating, predicting
    (*FINETUNE,),
    (*FINETUNE, "--dataset=nowhere"),
    (*FINETUNE, "--dataset={tables}"),
    (*FINETUNE, "--dataset={shards}", "--task=nothing"),
    (*TUNED, "--fraction=0"),
    (*TUNED, "--fraction=50"),
    (*TUNED, "--batch=0"),
    (*TUNED, "--warmup_epochs=9"),
    (*TUNED, "--classes_order=a,a"),
    (*TUNED, "--classes_order=a,b"),
    (*TUNED, "--split={tables}/nothing.csv"),
    (*TUNED, "--split={tables}/split.csv"),
    (*TUNED, "--recipe=papr"),
    (*TUNED, "--folds=1"),
    (*TUNED, "--augmentation=rnd"),
    ("-m", "maskedclip.finetune", "nowhere", "--dataset={shards}", "--name=x"),
    ("-m", "maskedclip.finetune", "--dataset={shards}"),
    ("-m", "maskedclip.evaluate", "{run}", "--datasets=nowhere"),
    ("-m", "maskedclip.evaluate", "{run}", "--datasets={shards}", "--protocols=guess"),
    ("-m", "maskedclip.predict", "{run}", "{tables}/eyes"),
    ("-m", "maskedclip.predict", "nowhere", "{tables}/eyes"),
    ("-m", "maskedclip.explain", "{run}", "--datasets=nowhere"),
    # shards and tables
    ("tools/make_shards.py", "idird", "--root={tables}"),
    ("tools/make_shards.py", "idrid"),
    ("tools/make_shards.py", "idrid", "--root=nowhere"),
    ("tools/make_shards.py", "idrid", "--root={tables}/eyes", "--out={place}/o"),
    (*FOLDER, "--size=0"),
    (*FOLDER, "--csv={tables}/none.csv"),
    (*CSV, "--csv={tables}/nothing.csv"),
    (*CSV, "--csv={tables}/none.csv"),
    (*CSV, "--csv={tables}/other.csv"),
    (*CSV, "--csv={tables}/quote.csv"),
    (*CSV, "--csv={tables}/other.csv", "--split_column=none"),
    ("tools/make_shards.py", "{tables}/toml.toml", "--root={tables}", "--out={place}/o"),
    ("tools/check_shards.py", "nowhere"),
    ("tools/make_splits.py", "{shards}", "--test_share=2"),
    # weights, reports, grids
    ("tools/export_weights.py", "{run}", "--to=tensorflow"),
    ("tools/export_weights.py", "nowhere", "--to=timm"),
    ("tools/convert_weights.py", "nowhere.pth"),
    ("-m", "maskedclip.report", "nowhere"),
    ("-m", "maskedclip.compare", "{run}"),
    ("-m", "maskedclip.slurm", "stats"),
    ("-m", "maskedclip.slurm", "status", "nowhere"),
]
