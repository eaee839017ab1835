"""What a pre-training has learnt, on one picture: scores, losses, hidden patches, captions."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image
from torch import Tensor

from maskedclip.config import Config
from maskedclip.config import load as load_config
from maskedclip.data.captions import wording_of
from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.labelled_views import sample_image
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.transforms import denormalise, hidden_patches
from maskedclip.inference import Model, load
from maskedclip.metrics.comparison import paired_bootstrap
from maskedclip.metrics.results import predictions_of, read_rows
from maskedclip.metrics.zero_shot import categories
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.patches import masked_and_filled, split_patches

_SHOWN, _CAPTIONS, _FOUND = 4, 3, 5
_SEARCHED = 1000  # test images at most among which a caption's nearest are shown
_RIGHT, _WRONG, _INK, _SOFT = "#1a7f37", "#b0bac4", "#1b2733", "#9aa7b4"
_STYLE: dict[Any, Any] = {
    "text.parse_math": False, "font.size": 8, "axes.titlesize": 9, "axes.linewidth": 0.6,
    "legend.fontsize": 7.5, "legend.frameon": False,
}  # fmt: skip


def draw_run(run: Path, start: Path, dataset: Path, task: str, path: Path) -> None:
    """Draw what a run has learnt, beside the weights it began from, into a PNG.

    Scores with their 95 % intervals, the losses, what is predicted of hidden patches of test
    images, and the test images that lie nearest to captions of some classes. What a run has not
    (a text tower, a decoder of pixels, a task of classes) leaves its panel out.

    Args:
        start: directory of the results of the weights that the run began from.
    """
    config, model = load_config(run / "config.json", Config), load(run)
    shards = Shards(dataset)
    labels = labelled(shards, task)
    tested = _tested(shards, labels)
    images = [image for _, image in tested]
    decodes = isinstance(model.network, MaskedCLIP) and "mim" in model.network.terms
    searches = model.reads_text and bool(labels.classes)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 7.2 if decodes or searches else 3.1), dpi=110,
                        layout="constrained")  # fmt: skip
        above = figure
        if decodes or searches:
            (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.35))
            left, right = below.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.35))[0]
        scores, losses = above.subplots(1, 2)
        _scores(scores, read_rows(run), read_rows(start), _start_of(config))
        _losses(losses, run / "metrics.jsonl")
        if decodes:
            _reconstructions(left, model, config, images[:_SHOWN])
        if searches:
            names = categories(labels.name, labels.classes)
            truth = [labels.labels_of(sample) for sample, _ in tested]
            wording = wording_of(shards.manifest, config.data.caption_template)
            _found(right, model, wording.template, names, images, truth)
        figure.savefig(path, metadata={"Software": None})


def _tested(shards: Shards, labels: Task) -> list[tuple[LabelledSample, Image.Image]]:
    """Return test images, of many each nth one; which are damaged the evaluation has said."""
    every = division_of(shards, labels).parts["test"]
    found = []
    for sample in every[:: len(every) // _SEARCHED + 1]:
        with suppress(DamagedSample):
            found.append((sample, sample_image(shards, sample.index)))
    return found


def _start_of(config: Config) -> str:
    return "weights it began from" if config.init_from else "untrained encoder"


def differences(run: Path, start: Path) -> list[str]:
    """Return a line for every AUROC that both have, with the paired 95 % interval."""
    before = {_split(row): row for row in read_rows(start) if row["metric"] == "auroc"}
    against = _start_of(load_config(run / "config.json", Config))
    lines = []
    for row in read_rows(run):
        other = before.get(_split(row))
        if row["metric"] != "auroc" or other is None:
            continue
        own, theirs = (predictions_of(*pair)[0] for pair in ((run, row), (start, other)))
        found = paired_bootstrap("auroc", [own], [theirs])
        interval = (
            f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
            if found.low is not None and found.high is not None
            else ""
        )
        lines.append(
            f"{row['dataset']}, {row['protocol']}: AUROC {100 * found.value:+.1f}{interval} "
            f"against the {against}, on the same {len(own.label_B)} images"
        )
    return lines


def _split(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("dataset", "task", "protocol", "fraction", "seed"))


def _scores(
    axes: Axes, own: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]], start: str
) -> None:
    """Draw the AUROC of each protocol, pre-trained beside what it began from."""
    sides = [
        ({row["protocol"]: row for row in rows if row["metric"] == "auroc"}, colour, name)
        for rows, colour, name in ((before, _SOFT, start), (own, _RIGHT, "pre-trained"))
    ]
    protocols = [name for name, row in sides[1][0].items() if row["value"] is not None]
    for at, protocol in enumerate(protocols):
        shown = [side for side in sides if (side[0].get(protocol) or {}).get("value") is not None]
        for place, (by_protocol, colour, name) in enumerate(shown):
            row = by_protocol[protocol]
            x = at + 0.38 * (place - (len(shown) - 1) / 2)
            value, low, high = (100 * row[end] for end in ("value", "low", "high"))
            axes.bar(x, value - 50, 0.36, bottom=50, color=colour, label=name)
            axes.errorbar(x, value, [[value - low], [high - value]], color=_INK, lw=0.9, capsize=3)
            axes.annotate(f"{value:.1f}", (x, 51), ha="center", color="white", fontweight="bold")
    axes.axhline(50, color=_INK, lw=0.6)
    axes.set(
        ylim=(45, 100), ylabel="macro AUROC (50: chance), 95 % interval",
        title="Held-out images, frozen encoder",
    )  # fmt: skip
    axes.set_xticks(range(len(protocols)), protocols)
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    axes.legend(handles.values(), handles.keys(), loc="upper right", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def _losses(axes: Axes, path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    words = {"loss_mim": "hidden patches (eq. 1)", "loss_clip": "image-text (eq. 4)",
             "loss_mfd": "teacher's features (eq. 5)", "loss_dino": "views (DINO)",
             "loss_ibot": "hidden patches (iBOT)", "loss_koleo": "spread (KoLeo)"}  # fmt: skip
    for name, label in words.items():
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, lw=1.4)
    axes.set(xlabel="step", title="Losses, as they are before their weights")
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)


def _reconstructions(
    figure: SubFigure, model: Model, config: Config, images: Sequence[Image.Image]
) -> None:
    network = model.network
    assert isinstance(network, MaskedCLIP)
    image_BCHW = torch.stack([model.prepare(image) for image in images])
    patches = (config.model.image_size // config.model.patch_size) ** 2
    draw_BN = np.random.default_rng(0).random((len(images), patches))
    hidden_BN = torch.from_numpy(hidden_patches(draw_BN, config.model.mask_ratio))
    with torch.no_grad():
        visible_BV, hidden_BM = split_patches(hidden_BN.to(model.device), network.visible)
        visible_BVD, _ = network.encoder(image_BCHW.to(model.device), visible_BV, 0)
        if network.bridge_shared:
            (visible_BVD,) = network.bridge.together([visible_BVD])
        pixel_BMP = network.pixel_decoder(visible_BVD, visible_BV, hidden_BM)
    masked, filled = masked_and_filled(
        image_BCHW, pixel_BMP.float().cpu(), hidden_BM.cpu(), config.model.patch_size,
        config.loss.normalise_pixels,
    )  # fmt: skip
    axes = figure.subplots(len(images), 3, squeeze=False)
    titles = (f"{config.model.mask_ratio:.0%} hidden", "predicted", "original")
    for column, (part_BCHW, title) in enumerate(
        zip((masked, filled, image_BCHW), titles, strict=True)
    ):
        axes[0, column].set_title(title)
        for row, image_CHW in enumerate(denormalise(part_BCHW)):
            _show(axes[row, column], image_CHW.permute(1, 2, 0).clamp(0, 1).numpy())


def _found(
    figure: SubFigure,
    model: Model,
    template: str,
    names: Sequence[str],
    images: Sequence[Image.Image],
    truth: Sequence[Sequence[int]],
) -> None:
    """Show for some classes the test images whose features lie nearest to their caption."""
    counts = [sum(label in own for own in truth) for label in range(len(names))]
    chosen = sorted(sorted(range(len(names)), key=lambda y: -counts[y])[:_CAPTIONS])
    captions = [template.replace("[CLS]", names[label]) for label in chosen]
    feature_BD: Tensor = model.encode_image(list(images))
    score_QB = model.encode_text(captions) @ feature_BD.T
    rows = figure.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    for row, label, caption, score_B in zip(rows, chosen, captions, score_QB, strict=True):
        row.suptitle(
            f"{caption!r}: nearest of {len(images)} images ({counts[label]} show it)",
            fontsize=7.5,
        )  # fmt: skip
        axes = row.subplots(1, _FOUND)
        for place, index in zip(axes, score_B.topk(min(_FOUND, len(images))).indices, strict=False):
            own = truth[int(index)]
            right = label in own
            _show(place, np.asarray(images[int(index)]), _RIGHT if right else _WRONG)
            words = textwrap.fill(", ".join(names[y] for y in own), 22)
            place.set_xlabel(words, fontsize=6, color=_INK if right else _SOFT)


def _show(axes: Axes, image_HWC: np.ndarray, frame: str = "") -> None:
    axes.imshow(image_HWC)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=bool(frame), color=frame or _INK, linewidth=2.5)
