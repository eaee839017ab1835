"""One run as a tree of frozen dataclasses: the only place where a default stands.

A recipe is a function that returns a `Config`; the command line, sweeps and `load` all change one
through `override`, so every knob has one name and one check.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import (
    Any,
    Literal,
    TypeVar,
    cast,
    get_type_hints,
)

from maskedclip.casting import Lines, cast_value, did_you_mean
from maskedclip.engine.whole_file import read_json, write_whole

T = TypeVar("T")
FrozenProtocol = Literal["logistic", "ridge", "linear", "attentive", "knn", "zeroshot"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how much of it a step."""

    paired: tuple[str, ...] = ()  # shard directories whose samples have a caption
    unpaired: tuple[str, ...] = ()  # shard directories used as images alone
    paired_batch: int = 720  # paired images a step, over all ranks (4 GPUs x 180)
    unpaired_batch: int = 720  # unpaired images a step, over all ranks
    paired_weights: tuple[
        float, ...
    ] = ()  # shares of the datasets; none: each sample once an epoch
    unpaired_weights: tuple[float, ...] = ()  # the same of the unpaired ones
    leave_out_tests: bool = False  # test images of the shards named here and in after.datasets
    leave_out_tests_of: tuple[str, ...] = ()  # further datasets whose test images are left out
    window: int = 0  # samples read ahead in large pieces and mixed; 0 mixes all of a source
    crop_area: tuple[float, float] = (0.2, 1.0)  # share of the image that a crop shows
    # [CLS] becomes the finding; empty: each dataset's own, else "A fundus photograph of [CLS]"
    caption_template: str = ""
    caption_from: Literal["report", "categories", "both"] = "report"  # where a sample has both
    fidelity: Literal["fast", "fine", "exact"] = "fine"  # of a crop: exact equals Pillow's bits
    readers: int | None = None  # reading threads a rank, which wait; None: 16, or 2 a decoding one
    threads: int | None = None  # decoding a rank; None: by its cores; 0: in the training thread
    prefetch: int = 3  # batches decoded ahead
    max_lost: float = 0.01  # share of damaged samples that stops the run; 1 never does
    draw_phantoms: int = 0  # phantoms drawn into each phantom_* directory that is not there
    stage: str | None = None  # a node's own disk that the tars are copied to, as '$SLURM_TMPDIR'

    def __post_init__(self) -> None:
        if self.stage is not None and self.stage[:1] not in ("/", "$"):
            raise ValueError(
                f"data.stage {self.stage!r}: write an absolute path, or in single quotes a "
                f"variable that each node expands: --data.stage='$SLURM_TMPDIR'"
            )
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.crop_area {low},{high}: write two shares, 0 < low <= high <= 1")
        if not self.paired_batch and not self.unpaired_batch:
            raise ValueError(
                "data.paired_batch and data.unpaired_batch are 0; use 1 or more of one of them"
            )
        counts = ("window", "readers", "threads", "prefetch", "draw_phantoms")
        for name in ("paired_batch", "unpaired_batch", *counts):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"data.{name} {getattr(self, name)} is negative; use 0 or more")
        if not 0 <= self.max_lost <= 1:
            raise ValueError(f"data.max_lost {self.max_lost}: write a share, 0 to 1")
        if self.caption_template and "[CLS]" not in self.caption_template:
            raise ValueError(
                f"data.caption_template {self.caption_template!r} has no [CLS]; put it where the "
                f"finding goes"
            )
        _check_weights("paired", self.paired, self.paired_weights)
        _check_weights("unpaired", self.unpaired, self.unpaired_weights)

    @property
    def read(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The paired and the unpaired directories of which a step has images."""
        unpaired = self.unpaired if self.unpaired_batch else ()
        return self.paired if self.paired_batch else (), unpaired


def _check_weights(name: str, datasets: tuple[str, ...], weights: tuple[float, ...]) -> None:
    shown = ",".join(f"{weight:g}" for weight in weights)
    where, total = f"data.{name}_weights {shown}", sum(weights)
    if weights and len(weights) != len(datasets):
        raise ValueError(
            f"{where}: {len(weights)} for {len(datasets)} datasets of data.{name}; write one a "
            f"dataset, or none"
        )
    if any(weight < 0 for weight in weights):
        raise ValueError(f"{where}: one is negative; use 0 or more")
    if weights and not total:
        raise ValueError(f"{where}: none is above 0; write a share for at least one dataset")
    if any(0 < weight < total / 1000 for weight in weights):
        raise ValueError(
            f"{where}: one is below a thousandth of their sum, the finest share; raise it, or "
            f"set it to 0"
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The five networks of the paper, and the teacher."""

    size: Literal["micro", "tiny", "small", "base", "large"] = "large"  # of E_I
    image_size: int = 224  # pixels, square
    patch_size: int = 16  # pixels, square
    positions: Literal["sine", "rotary"] = "sine"  # of E_I: added (those of init_from), or DINOv3's
    registers: int = 0  # tokens of E_I beside [CLS] that nothing reads (RETFound-Green has 4)
    mask_ratio: float = 0.75  # share of the patches hidden from E_I
    mask_unit: int = 1  # patches along the side of what is hidden as one; method simmim alone
    bridge_depth: int = 4  # blocks of B, of the encoder's width; 0: no bridge at all
    bridge_shared: bool = False  # masked tokens pass B too, before D_I and D_F
    feature_decoder_depth: int = 4  # blocks of D_F, of the encoder's width
    feature_patches: Literal["all", "hidden"] = "all"  # that D_F predicts, and eq. 5 compares
    pooling: Literal["mean", "cls"] = "mean"  # of B's patch tokens, or its [CLS], into joint space
    projection: int = 512  # features of the joint image-text space
    text: str = "emilyalsentzer/Bio_ClinicalBERT"  # Hugging Face name, local folder, or builtin
    text_tokens: int = 77  # a longer caption is cut
    text_dropout: float = 0.0  # 0 keeps a step equal for every number of ranks
    teacher_momentum: float = 0.999  # a step

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            near = max(1, self.image_size // self.patch_size) * self.patch_size
            raise ValueError(
                f"model.image_size {self.image_size} is not a multiple of "
                f"model.patch_size {self.patch_size}; try {near}"
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"model.mask_ratio {self.mask_ratio}: write a share between 0 and 1")
        if self.registers < 0:
            raise ValueError(f"model.registers {self.registers}: use 0 or more")
        if self.mask_unit < 1:
            raise ValueError(f"model.mask_unit {self.mask_unit}: use 1 or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of eq. 6. What a weight of 0 leaves without use is neither built nor computed."""

    mim: float = 1.0  # pixels of the hidden patches (eq. 1)
    clip: float = 0.01  # image-text contrast (eq. 4)
    mfd: float = 0.01  # the teacher's features (eq. 5)
    centre_targets: bool = False  # of eq. 5, less the step's mean feature; the paper does not
    normalise_pixels: bool = True  # each target patch to mean 0, variance 1
    label_guided: bool = True  # pairs of the same findings are positives; off: each alone (CLIP)
    contrast: Literal["softmax", "sigmoid"] = "softmax"  # eqs. 2-4, or SigLIP's with its bias

    def __post_init__(self) -> None:
        for name in ("mim", "clip", "mfd"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss.{name} {getattr(self, name)}: use 0 or more")

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(name for name in ("mim", "clip", "mfd") if getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """Method dinov2; what is given in epochs is scaled with optim.epochs, as warm-up is."""

    cls: float = 1.0  # weight of DINO's loss of [CLS]
    ibot: float = 1.0  # weight of iBOT's loss of masked patches; 0: nothing is masked
    koleo: float = 0.1  # weight of KoLeo, which spreads the features
    targets: Literal["centre", "sinkhorn"] = "centre"  # how the teacher's prototypes are spread
    local_crops: int = 8  # local crops, beside two global ones of model.image_size
    local_size: int = 96  # pixels, square
    local_area: tuple[float, float] = (0.05, 0.32)  # share of the image
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # of one global crop's patches, drawn an image
    separate_heads: bool = True  # patches have a head of their own
    head_width: int = 2048  # of a head's hidden layers
    bottleneck: int = 256  # features that are compared with prototypes
    prototypes: int = 65_536  # of a head
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)  # at first, and when warmed up
    temperature_epochs: float = 30.0  # of warm-up from the first to the last
    momentum: float = 0.992  # of the EMA teacher at first; by half a cosine to 1
    last_weight_decay: float = 0.4  # optim.weight_decay goes there by half a cosine
    patch_lr: float = 0.2  # share of it, of the patch embedding
    freeze_epochs: float = 1.0  # in which the prototypes are frozen
    drop_path: float = 0.3  # chance that a crop drops a residual branch (stochastic depth)

    def __post_init__(self) -> None:
        for name in ("cls", "ibot", "koleo"):
            if getattr(self, name) < 0:
                raise ValueError(f"dino.{name} {getattr(self, name)}: use 0 or more")
        if self.local_crops < 1:
            raise ValueError(f"dino.local_crops {self.local_crops}: use 1 or more")
        for name in ("local_area", "mask_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(
                    f"dino.{name} {low},{high}: write two shares, 0 < low <= high <= 1"
                )
        for name in ("drop_path", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"dino.{name} {getattr(self, name)}: write a share, 0 <= x < 1")
        if min(*self.teacher_temperature, self.student_temperature) < 0.02:
            raise ValueError("dino: a temperature below 0.02 leaves the range of fp32; raise it")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and half a cosine, set anew at each step."""

    epochs: float = 200.0  # passes over the larger source
    steps: int = 0  # if set, the length in steps instead of epochs
    warmup_epochs: float = 40.0  # of `epochs`; in a run given in steps the same share
    base_lr: float = 1.5e-4  # peak, per 256 images of the global batch (paired and unpaired)
    lr: float | None = None  # peak, absolute; replaces base_lr
    # of the rate of encoder and text tower, a block further from the heads; None: 0.75 with
    # init_from (docs/replication.md), else 1
    layer_decay: float | None = None
    freeze_encoder_epochs: float = 0.0  # in which the others learn alone; then it warms up
    freeze_text_epochs: float = 0.0  # the same of the text tower
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8  # of AdamW: gradients far below it move nothing
    weight_decay: float = 0.05  # not on biases, norms and other 1-D parameters
    clip_norm: float | None = None  # largest gradient norm; None: no clipping
    accumulate: int = 1  # micro-batches of a step on each rank (gradient accumulation)

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"optim.accumulate {self.accumulate}: use 1 or more")
        for name in (
            "steps", "warmup_epochs", "base_lr", "lr", "weight_decay", "clip_norm",
            "freeze_encoder_epochs", "freeze_text_epochs",
        ):  # fmt: skip
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"optim.{name} {getattr(self, name)} is negative; use 0 or more")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"optim.layer_decay {self.layer_decay}: write a share, 0 < x <= 1 (1: all alike)"
            )
        if self.eps <= 0:
            raise ValueError(f"optim.eps {self.eps}: use a number above 0, such as 1e-8")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"optim.warmup_epochs {self.warmup_epochs} is not below optim.epochs {self.epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How it runs, with no effect on what is learnt beyond rounding."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the processor is fast
    tf32: bool = True  # products of an fp32 run on a card that has it; off: all bits, 1/8 as fast
    # cudnn first, or varlen: one kernel for all lengths; of GPUs, none has run them (docs/plan.md)
    attention: Literal["sdpa", "cudnn", "varlen"] = "sdpa"
    activation_checkpointing: bool = False  # of each block: less memory, a third more work
    sharding: Literal["auto", "none", "replicate", "shard", "hybrid"] = "auto"  # docs/plan.md
    reshard_after_forward: bool = True  # off: more memory, a gathering of the blocks less
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"  # of gradients on their way between ranks
    compile: bool = False  # blocks by torch.compile: faster steps after minutes of compiling
    log_every: int = 20  # steps
    save_every: int = 500  # steps
    keep: int = 3  # checkpoints
    async_checkpoint: bool = True  # checkpoints are written while training goes on
    on_fault: Literal["stop", "skip"] = "stop"  # of a step that is not finite, or a spike
    spike: float = 0.0  # a gradient norm above so many times its mean is a fault; 0: none is
    hang_minutes: float = (
        10.0  # without a step on any rank: stacks are written, the job ends; 0: off
    )
    pictures_every: int = 500  # steps between pictures of fixed samples in TensorBoard; 0: none

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "keep"):  # none kept: a stop would lose the run
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name} {getattr(self, name)}: use 1 or more")
        for name in ("spike", "hang_minutes", "pictures_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"engine.{name} {getattr(self, name)} is negative; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class AfterConfig:
    """What is measured on the encoder when pre-training ends."""

    datasets: tuple[str, ...] = ()  # shard directories with labels
    task: str = ""  # label of those datasets; empty: their first
    protocols: tuple[FrozenProtocol, ...] = ("zeroshot", "logistic")
    beside_start: bool = False  # and init_from (random ones if empty), the difference, a picture

    def __post_init__(self) -> None:
        if self.datasets and not self.protocols:
            raise ValueError(
                "after.protocols: none is named; name some, such as logistic,knn, or measure "
                "nothing: --after.datasets="
            )


_CONTINUED = 0.75  # layer_decay of weights to begin from


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """What is measured and shown beside the loss, with no effect on what is learnt."""

    health_every: int = 200  # steps between looks at features, teacher and contrast; 0: none
    shares_every: int = 1000  # steps between the terms' gradient shares (a step a term); 0: none

    least_share: float = 0.001  # of a term in the encoder's gradient; below it is an alarm
    # shard directory with labels: k-NN and logistic regression of the frozen encoder are fitted on
    # its training images and scored on its validation images; empty: no probe
    probe: str = ""
    probe_task: str = ""  # label of it; empty: its first
    probe_every: int = 500  # steps between looks of the probe; 0: none
    images: bool = False  # draw photographs whatever their licence says; off: where it lets anyone
    reference: bool = True  # draw the measured curve of the recipe that is followed, too

    def __post_init__(self) -> None:
        for name in ("health_every", "shares_every", "probe_every", "least_share"):
            if getattr(self, name) < 0:
                raise ValueError(f"log.{name} {getattr(self, name)} is negative; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One pre-training run; its directory is `out`/`name`."""

    name: str = "maskedclip_vitl"
    out: str = "runs"
    seed: int = 0
    method: Literal["maskedclip", "dinov2", "simmim"] = "maskedclip"
    init_from: str = ""  # weights to begin with: MAE, RETFound or a run; empty: random ones
    i_trust_this_directory: bool = False  # go on from checkpoints that others own or may write
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    dino: DinoConfig = DinoConfig()
    optim: OptimConfig = OptimConfig()
    engine: EngineConfig = EngineConfig()
    after: AfterConfig = AfterConfig()
    log: MonitorConfig = MonitorConfig()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} is negative; use 0 or more")
        check_folder_name(self.name)

    @property
    def directory(self) -> Path:
        return Path(self.out) / self.name

    @property
    def peak_lr(self) -> float:
        images = self.data.paired_batch + self.data.unpaired_batch
        return self.optim.base_lr * images / 256 if self.optim.lr is None else self.optim.lr

    @property
    def layer_decay(self) -> float:
        """The decay that is meant: weights to begin from are kept by a slower rate."""
        given = self.optim.layer_decay
        return given if given is not None else _CONTINUED if self.init_from else 1.0


def check_folder_name(name: str) -> None:
    """Raise ValueError where a run or grid is not to be called so."""
    if not name or name in (".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise ValueError(f"name {name!r}: write a plain folder name")
    refuse_numbers_of_jobs(name)


def refuse_numbers_of_jobs(name: str) -> None:
    """Raise ValueError for %j and the like: SLURM puts numbers there, in paths of logs alone."""
    if "%" in name:
        raise ValueError(f"name {name!r}: % has a meaning of its own to SLURM; leave it out")


def refuse_repeated(classes_order: Sequence[str]) -> None:
    """Raise ValueError where an order of classes names one of them twice."""
    if len(set(classes_order)) < len(classes_order):
        raise ValueError(
            f"classes_order {','.join(classes_order)}: a class is named twice; name each once, the "
            f"lowest first"
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tuning on labels; defaults are the paper's (section 3, Implementation Details)."""

    weights: str = ""  # run directory, file of an encoder, name of Hugging Face or timm, random
    dataset: str = ""  # shard directory with labels, or a tree train/val/test/CLASS of images
    task: str = ""  # label to learn; empty: the dataset's first
    classes_order: tuple[str, ...] = ()  # its classes as grades, the lowest first
    size: Literal["micro", "tiny", "small", "base", "large"] = "large"  # where weights = random
    name: str = ""  # empty: made of the weights, dataset, fraction, seed and recipe
    out: str = "runs"
    recipe: str = "paper"  # of finetune/recipes.py, whose values are the other defaults
    fraction: float = 1.0  # share of the training labels, stratified and nested
    seed: int = 0
    image_size: int = 0  # pixels, square; 0: as the weights were trained (random ones: 224)
    encoder: Literal["trained", "frozen", "lora"] = "trained"  # lora: low-rank updates alone
    lora_rank: int = 8  # of the update of each linear layer
    lora_alpha: float = 16.0  # the update counts alpha / rank
    batch: int = 16
    epochs: int = 50
    warmup_epochs: int = 10
    lr: float = 5e-4  # peak, absolute
    min_lr: float = 1e-6
    layer_decay: float = 0.65
    weight_decay: float = 0.05
    drop_path: float = 0.2
    smoothing: float = 0.1  # of labels
    augmentation: str = "rand-m9-mstd0.5-inc1"  # as timm writes it; empty: crop and flip alone
    re_prob: float = 0.25  # probability of erasing a random rectangle
    mixup: float = 0.0  # alpha of blending two training images; 0: off
    cutmix: float = 0.0  # alpha of pasting a part of one into another; 0: off
    balance: Literal["none", "sampling", "weights"] = "none"  # of classes: equally often, or loss
    selection: Literal["auroc", "retfound"] = "auroc"  # of the epoch; retfound: F1, AUROC, kappa
    split: str = ""  # file of tools/make_splits.py; empty: the dataset's splits/TASK.csv
    threads: int | None = None  # decoding; None: by this process's cores; 0: none of their own
    compile: bool = False  # training by torch.compile: faster steps after minutes of compiling
    hang_minutes: float = 10.0  # without a batch: stacks are written, the run ends; 0: off
    i_trust_this_directory: bool = False  # go on from states that others own or may write

    def __post_init__(self) -> None:
        refuse_repeated(self.classes_order)
        check_folder_name(self.name or "made of others")
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"fraction {self.fraction}: write a share of the labels, 0 < f <= 1; 10 % is 0.1"
            )
        if self.batch < 1 or self.epochs < 1:
            raise ValueError(f"batch {self.batch}, epochs {self.epochs}: both are at least 1")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} is not below epochs {self.epochs}; "
                f"use --warmup_epochs={self.epochs // 5}"
            )
        for name in ("lr", "min_lr", "weight_decay", "seed", "threads"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} {getattr(self, name)} is negative; use 0 or more")
        for name in ("drop_path", "smoothing", "re_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: write a share, 0 <= x < 1")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay {self.layer_decay}: write a share, 0 < x <= 1")
        _check_adapter(self.recipe, self.encoder, self.lora_rank, self.lora_alpha)
        if self.mixup < 0 or self.cutmix < 0:
            raise ValueError(f"mixup {self.mixup}, cutmix {self.cutmix}: neither is below 0")


def _check_adapter(recipe: str, encoder: str, rank: int, alpha: float) -> None:
    if recipe in ("frozen", "lora") and recipe != encoder:  # tables call it by its recipe
        raise ValueError(f"recipe {recipe} with encoder {encoder}: use --recipe=paper for that")
    if rank < 1 or alpha <= 0:
        raise ValueError(
            f"lora_rank {rank}, lora_alpha {alpha:g}: use a rank of 1 or more, an alpha above 0"
        )


# options of sbatch that have fields of their own, or that requeueing depends on
_SET_BY_US = (
    "account", "array", "constraint", "cpus-per-task", "error", "gpus-per-node", "job-name", "mem",
    "nodes", "no-requeue", "ntasks-per-node", "open-mode", "output", "partition", "qos", "signal",
    "time", "wrap",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where a run is executed, and with which resources."""

    nodes: int = 1
    gpus: int | None = None  # a node; unset: all of this machine, 1 a node on slurm
    cpu_ranks: int = 1  # processes a node where gpus is 0
    cluster: Literal["auto", "slurm", "local", "debug"] = "auto"  # auto: slurm where sbatch is
    dry_run: bool = False  # print what would be submitted, and its cost, and write nothing
    card: str = "a100-80"  # GPU that the cost is estimated for; tools/plan.py lists the names
    hours: float = 24.0  # time limit; a longer run is requeued by itself
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cpus_per_rank: int = 8  # asked of slurm
    memory_gb: int | None = None  # a node, asked of slurm
    constraint: str | None = None  # of the nodes, such as a100
    sbatch: Lines = ()  # further options of sbatch, as --sbatch=--exclude=n1,n2
    setup: Lines = ()  # shell lines that run first in the job, as "module load cuda"
    python: str = ""  # what starts Python in a job, as "apptainer exec --nv IMAGE python"; "": ours
    profile: str = ""  # table of ~/.config/maskedclip/cluster.toml, over [default]

    def __post_init__(self) -> None:
        for line in self.sbatch:
            name = line.partition("=")[0]
            if not name.startswith("--") or name.removeprefix("--") in _SET_BY_US:
                raise ValueError(
                    f"sbatch {line!r}: write an option as --NAME=VALUE, none of those that are set "
                    f"anyway: {', '.join(_SET_BY_US)}"
                )
        _check_command(self.python)
        if self.nodes < 1 or self.cpu_ranks < 1 or (self.gpus or 0) < 0:
            raise ValueError("nodes and cpu_ranks are at least 1, gpus at least 0")
        check_hours("hours", self.hours)


def check_hours(name: str, hours: float) -> None:
    """Raise ValueError where a time limit is below a minute: 0 of them are none to SLURM."""
    if round(hours * 60) < 1:
        raise ValueError(
            f"{name} {hours:g}: SLURM counts whole minutes; use 0.02 (one minute) or more"
        )


def _check_command(python: str) -> None:
    """Raise ValueError where what is to start Python is not the words of one command."""
    words = shlex.shlex(python, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    try:
        found = list(words)
    except ValueError as error:
        raise ValueError(f"python {python!r}: {error}; close the quotes") from None
    if "\n" in python or any(word[:1] == "#" or set(word) <= set("();<>|&") for word in found):
        raise ValueError(
            f"python {python!r}: write one command and its words, quoted as for a shell; what is "
            f"to run before it stands in setup"
        )


def check_divisible(batch_sizes: Iterable[int], world: int, accumulate: int) -> None:
    """Raise ValueError where a global batch size is no multiple of world size x accumulate."""
    share = world * accumulate
    for size in batch_sizes:
        if size % share:
            times = f" x optim.accumulate {accumulate}" if accumulate > 1 else ""
            raise ValueError(
                f"global batch size {size} is not divisible by world size {world}{times}; use a "
                f"multiple, such as {-(-size // share) * share}, for data.paired_batch and "
                f"data.unpaired_batch"
            )


def override(config: T, changes: Mapping[str, Any]) -> T:
    """Return `config` with dotted fields replaced, as in {"optim.base_lr": 3e-4}.

    Raises ValueError for an unknown field (with the nearest name) or a value of another kind.
    """
    names = field_kinds(type(config))
    for path in changes:
        if path not in names:
            hint = did_you_mean(path, names)
            raise ValueError(f"no field {path!r} in {type(config).__name__}; {hint}")
    return _replaced(config, changes, "")


def _replaced(config: T, changes: Mapping[str, Any], prefix: str) -> T:
    kinds = get_type_hints(type(config), include_extras=True)
    new: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        key, _, rest = path.partition(".")
        if rest:
            inner.setdefault(key, {})[rest] = value
        else:
            new[key] = cast_value(value, kinds[key], prefix + key)
    for key, below in inner.items():
        new[key] = _replaced(getattr(config, key), below, f"{prefix}{key}.")
    # one `replace` a node, so that __post_init__ sees all the changes at once
    return cast(T, replace(cast(Any, config), **new))


def field_kinds(config: type, prefix: str = "") -> dict[str, Any]:
    """Return what each dotted field of a tree of dataclasses holds, as it is annotated."""
    kinds: dict[str, Any] = {}
    for name, kind in get_type_hints(config, include_extras=True).items():
        inner = is_dataclass(kind)
        kinds |= field_kinds(kind, f"{prefix}{name}.") if inner else {prefix + name: kind}
    return kinds


def field_names(config: Any) -> list[str]:
    """Return every dotted field of `config`."""
    return list(field_kinds(type(config)))


def save(config: Any, path: Path) -> None:
    """Write `config` as JSON, whole or not at all."""
    write_whole(path, json.dumps(asdict(config), indent=2) + "\n")


def load(path: Path, kind: type[T]) -> T:
    """Read what `save` wrote, now or under a field's former name; ValueError for half a file."""
    content = read_json(path, "write it back from a copy, or choose another --name")
    return override(kind(), _renamed(flat(content)))


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a file from before 2026-11-30 under their present names."""
    former = {
        "engine.recompute": "engine.activation_checkpointing",
        "engine.save_aside": "engine.async_checkpoint",
        "after.beside_untrained": "after.beside_start",
    }
    present = {former.get(name, name): value for name, value in fields.items()}
    if dino := present.pop("loss.dino", 0.0):
        present |= {"method": "dinov2", "dino.cls": dino}
    decay = present.pop("dino.layer_decay", None)  # of one method, until all have it
    if decay is not None and present.get("method") == "dinov2":
        present["optim.layer_decay"] = decay
    return present


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested configuration by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        leaves |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return leaves
