"""What each number of metrics.jsonl is: its chart, its unit, and a sentence on how to read it.

A key of a row is a curve's name, or NAME/PART/PART for one of several: `grad_norm/encoder`,
`gradient_share/clip/blocks 0-3`. TensorBoard and the report's pages both read this table. Rows hold
what has the unit % as a share of 1; it is shown times 100. A fine-tuning's rows have keys of their
own meaning, and its tags their own chart.
"""

from typing import NamedTuple


class Curve(NamedTuple):
    """One number that is logged, or several of a kind."""

    name: str
    chart: str  # the group that it is drawn in
    unit: str  # "" for numbers without one
    description: str

    def shown(self, value: float) -> float:
        """Return the value of a row in the curve's unit."""
        return 100 * value if self.unit.startswith("%") else value

    @property
    def words(self) -> str:
        """Return the description with the unit behind it."""
        return f"{self.description} [{self.unit}]" if self.unit else self.description


LOSSES, OPTIMISER, CONTRAST, TEACHER = "losses", "optimiser", "contrast", "teacher"
FEATURES, THROUGHPUT, GOODPUT, PROBE = "features", "throughput", "goodput", "probe"
FINETUNING = "fine-tuning"
CHARTS = (
    LOSSES, OPTIMISER, CONTRAST, TEACHER, FEATURES, THROUGHPUT, GOODPUT, PROBE, FINETUNING,
)  # fmt: skip

CURVES = (
    Curve("loss", LOSSES, "", "weighted sum of the terms (eq. 6), which is minimised"),
    Curve("loss_mim", LOSSES, "", "reconstruction of hidden patches (eq. 1), before its weight"),
    Curve("loss_clip", LOSSES, "nats", "image-text contrast (eq. 4), before its weight"),
    Curve(
        "loss_mfd", LOSSES, "",
        "minus the cosine to the teacher's features (eq. 5), before its weight",
    ),
    Curve("loss_dino", LOSSES, "nats", "DINO's cross-entropy of views, before its weight"),
    Curve("loss_ibot", LOSSES, "nats", "iBOT's cross-entropy of hidden patches, before its weight"),
    Curve("loss_koleo", LOSSES, "nats", "KoLeo's spread of features, before its weight"),
    Curve("lr", OPTIMISER, "", "learning rate of the step"),
    Curve(
        "grad_norm", OPTIMISER, "",
        "norm of the gradient before clipping, of all weights or of a module",
    ),
    Curve(
        "update_ratio", OPTIMISER, "",
        "norm of a step's change of a module's weights over the norm of these; 1e-3 is"
        " usual",
    ),
    Curve(
        "gradient_share", OPTIMISER, "%",
        "share of a term in the sum of the terms' gradient norms, in a block; weights"
        " included",
    ),
    Curve("logit_scale", OPTIMISER, "", "1 / tau of the contrast; clamped at 100"),
    Curve("logit_bias", OPTIMISER, "", "what the sigmoid contrast adds to each logit"),
    Curve(
        "loss_clip_excess", CONTRAST, "nats",
        "contrast minus the least that its labels allow: several captions of one label"
        " share a probability",
    ),
    Curve(
        "retrieval_image_to_text", CONTRAST, "%",
        "images of a batch whose nearest caption has their label",
    ),
    Curve(
        "retrieval_text_to_image", CONTRAST, "%",
        "captions of a batch whose nearest image has their label",
    ),
    Curve(
        "teacher_drift", TEACHER, "",
        "distance of the teacher's weights to the student's, over the norm of these",
    ),
    Curve(
        "teacher_rank", TEACHER, "",
        "effective rank (RankMe) of the teacher's patch features; 1: it is constant",
    ),
    Curve("target_cosine_hidden", TEACHER, "", "cosine of D_F to the teacher on hidden patches"),
    Curve("target_cosine_visible", TEACHER, "", "cosine of D_F to the teacher on visible patches"),
    Curve(
        "target_cosine_constant", TEACHER, "",
        "cosine to the teacher that one constant vector would reach: what the others must"
        " exceed",
    ),
    Curve(
        "cls_std", TEACHER, "",
        "spread of the student's [CLS] over a batch times the root of its width; near 0:"
        " collapse",
    ),
    Curve(
        "entropy_dino", TEACHER, "nats",
        "entropy of the teacher's targets, a part of loss_dino that no student lowers; it rises"
        " as the centre takes off what all images have",
    ),
    Curve(
        "kl_dino", TEACHER, "nats",
        "loss_dino minus that entropy: what the student has still to learn of the targets",
    ),
    Curve(
        "information_dino", TEACHER, "nats",
        "what a target tells of which image it is of, at most the log of a rank's images; 0:"
        " all images have one target, and DINO teaches nothing",
    ),
    Curve(
        "feature_rank", FEATURES, "",
        "effective rank (RankMe) of the encoder's mean features of a batch; at most its"
        " images",
    ),
    Curve(
        "uniformity", FEATURES, "",
        "log of the mean Gaussian potential of pairs of image features (Wang and Isola);"
        " lower is spread wider",
    ),
    Curve(
        "alignment", FEATURES, "",
        "mean squared distance of an image's feature to its caption's (Wang and Isola);"
        " lower is nearer",
    ),
    Curve("images_per_s", THROUGHPUT, "images/s", "images trained a second, over all ranks"),
    Curve(
        "mfu", THROUGHPUT, "% of the peak",
        "model FLOPS utilisation: of the device's matrix rate in this precision",
    ),
    Curve("data_wait", THROUGHPUT, "% of the time", "waiting for the next batch"),
    Curve(
        "memory_gib", THROUGHPUT, "GiB",
        "peak memory of rank 0: of its GPU since the last row, without one of its process",
    ),
    Curve("goodput", GOODPUT, "% of the time", "what the time since the first start went to"),
    Curve(
        "probe_knn", PROBE, "%",
        "macro AUROC of 20 nearest neighbours of the frozen encoder's features, on validation"
        " images of log.probe: no result on test images",
    ),
    Curve(
        "probe_logistic", PROBE, "%",
        "macro AUROC of logistic regression on the frozen encoder's features, on validation"
        " images of log.probe: no result on test images",
    ),
)  # fmt: skip
_BY_NAME = {curve.name: curve for curve in CURVES}

FINETUNING_CURVES = (
    Curve("loss", FINETUNING, "", "mean over an epoch's training batches, smoothing included"),
    Curve("lr", FINETUNING, "", "learning rate at the end of the epoch"),
    Curve("val_auroc", FINETUNING, "", "macro AUROC on validation images"),
    Curve("val_average_precision", FINETUNING, "", "macro average precision, validation images"),
    Curve("val_retfound", FINETUNING, "", "mean of F1, AUROC and kappa on validation images"),
    Curve("val_mae", FINETUNING, "", "mean absolute error on validation images; lower is better"),
)  # fmt: skip
_FINETUNING_BY_NAME = {curve.name: curve for curve in FINETUNING_CURVES}

# charts of several curves, of TensorBoard's custom scalars and of a page: title -> curves
LAYOUT: dict[str, dict[str, tuple[str, ...]]] = {
    LOSSES: {
        "loss": ("loss",),
        "terms": (
            "loss_mim", "loss_clip", "loss_mfd", "loss_dino", "loss_ibot", "loss_koleo",
        ),
    },
    OPTIMISER: {
        "learning rate": ("lr",),
        "gradient norm": ("grad_norm",),
        "update to weight": ("update_ratio",),
        "gradient share of a term": ("gradient_share",),
        "logit scale (1 / tau)": ("logit_scale",),
        "logit bias": ("logit_bias",),
    },
    CONTRAST: {
        "above its floor": ("loss_clip_excess",),
        "retrieval in a batch": ("retrieval_image_to_text", "retrieval_text_to_image"),
    },
    TEACHER: {
        "cosine of D_F, against a constant": (
            "target_cosine_hidden", "target_cosine_visible", "target_cosine_constant",
        ),
        "drift": ("teacher_drift",),
        "effective rank of the teacher": ("teacher_rank",),
        "spread of [CLS]": ("cls_std",),
        "DINO's targets": ("entropy_dino", "kl_dino", "information_dino"),
    },
    FEATURES: {
        "effective rank (RankMe)": ("feature_rank",),
        "uniformity and alignment": ("uniformity", "alignment"),
    },
    THROUGHPUT: {
        "images a second": ("images_per_s",),
        "MFU and data wait": ("mfu", "data_wait"),
        "memory": ("memory_gib",),
    },
    GOODPUT: {"what the time went to": ("goodput",)},
    PROBE: {"AUROC of the online probe": ("probe_knn", "probe_logistic")},
}  # fmt: skip


def curve_of(key: str, *, finetuning: bool = False) -> Curve | None:
    """Return the curve of a key of metrics.jsonl, None for what is no number to draw."""
    name = key.partition("/")[0]
    if finetuning:
        found = _FINETUNING_BY_NAME.get(name)
        words = f"{name.removeprefix('val_')} on validation images"
        return Curve(name, FINETUNING, "", words) if not found and name[:4] == "val_" else found
    if name.startswith("loss_") and name not in _BY_NAME:  # of a term that was added since
        return Curve(name, LOSSES, "", "a term of the loss, before its weight")
    return _BY_NAME.get(name)


def tag_of(key: str, *, finetuning: bool = False) -> str | None:
    """Return the tag of a key in TensorBoard: its chart, then the key where that says more."""
    curve = curve_of(key, finetuning=finetuning)
    return curve and (key if curve.name == curve.chart else f"{curve.chart}/{key}")
