"""What each number of metrics.jsonl is: its chart, its unit, and a sentence on how to read it.

A key of a row is a curve's name, or NAME/PART/PART for one of several: `grad_norm/encoder`,
`gradient_share/clip/blocks 0-3`. TensorBoard and the report's pages both read this table.
"""

from typing import NamedTuple


class Curve(NamedTuple):
    """One number that is logged, or several of a kind."""

    name: str
    chart: str  # the group that it is drawn in
    unit: str  # "" for numbers without one
    description: str


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
        "spread of the teacher's [CLS] over a batch times the root of its width; near 0:"
        " collapse",
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
        "peak memory since the last row: of the GPU, without one of the process",
    ),
    Curve("goodput", GOODPUT, "% of the time", "what the time since the first start went to"),
    Curve("probe_knn", PROBE, "AUROC", "k-NN on the frozen encoder, validation images"),
    Curve(
        "probe_logistic", PROBE, "AUROC",
        "logistic regression on the frozen encoder, validation images",
    ),
)  # fmt: skip
_BY_NAME = {curve.name: curve for curve in CURVES}


def curve_of(key: str) -> Curve | None:
    """Return the curve of a key of metrics.jsonl, None for what is no number to draw."""
    return _BY_NAME.get(key.partition("/")[0])
