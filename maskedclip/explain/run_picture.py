"""What a pre-training has learnt, on one picture: scores, losses, hidden patches, captions."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from maskedclip.config import Config
from maskedclip.config import load as load_config
from maskedclip.data.captions import wording_of
from maskedclip.data.labelled import LabelledSample, labelled
from maskedclip.data.labelled_views import sample_image
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.transforms import denormalise, hidden_patches
from maskedclip.evaluate.predicting import Benchmark, class_keys
from maskedclip.inference import Model, load
from maskedclip.metrics.comparison import paired_bootstrap
from maskedclip.metrics.known_patients import images_in_words
from maskedclip.metrics.results import DAGGER, predictions_of, seen_line, written
from maskedclip.metrics.scores import NOT_IN_PER_CENT, metrics_of
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.patches import masked_and_filled, split_patches

_SHOWN, _CAPTIONS, _FOUND = 4, 3, 5
_SEARCHED = 1000  # test images at most among which a caption's nearest are shown
_NOTE_WIDTH = 105  # letters of a line below the scores
_NAMES = {"auroc": "AUROC", "mae": "MAE (less is better)"}  # the first metric of each kind
_AXES = _NAMES | {"auroc": "macro AUROC (50: chance)"}
_RIGHT, _WRONG, _INK, _SOFT = "#1a7f37", "#b0bac4", "#1b2733", "#9aa7b4"
_STYLE: dict[Any, Any] = {
    "text.parse_math": False, "font.size": 8, "axes.titlesize": 9, "axes.linewidth": 0.6,
    "legend.fontsize": 7.5, "legend.frameon": False,
}  # fmt: skip


class Scored(NamedTuple):
    """What weights score in one measuring, all of it on the same datasets."""

    name: str  # in legends and lines
    directory: Path  # of results.jsonl and the predictions
    rows: Sequence[dict[str, Any]]

    def of(self, dataset: str, task: str, metric: str) -> dict[str, dict[str, Any]]:
        """Return the rows of a metric on a task, by their protocol."""
        chosen = (dataset, task, metric)
        return {
            row["protocol"]: row
            for row in self.rows
            if (row["dataset"], row["task"], row["metric"]) == chosen
        }


def draw_run(own: Scored, before: Scored, dataset: Path, task: str, path: Path) -> None:
    """Draw what a run has learnt, beside the weights it began from, into a PNG.

    All of it on one dataset and task: scores with their 95 % intervals, what is predicted of hidden
    patches of test images, and the test images that lie nearest to captions of some classes; and
    the losses. What a run has not (a text tower, a decoder of pixels, a task of classes) leaves its
    panel out.

    Args:
        own: of the run; its directory is the run's.
        before: of the weights that it began from.
    """
    run = own.directory
    config, model = load_config(run / "config.json", Config), load(run)
    shards = Shards(dataset)
    labels = labelled(shards, task)
    benchmark = Benchmark(shards, labels, division_of(shards, labels))
    tested = _tested(benchmark)
    images = [image for _, image in tested]
    decodes = isinstance(model.network, MaskedCLIP) and "mim" in model.network.terms
    searches = model.reads_text and labels.kind != "number"
    metric = metrics_of(labels.kind)[0]
    sides = {side.name: side.of(shards.name, labels.name, metric) for side in (before, own)}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 7.5 if decodes or searches else 3.4), dpi=110,
                        layout="constrained")  # fmt: skip
        above = figure
        if decodes or searches:
            (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.25))
            ratios = [1.0] * decodes + [1.35] * searches
            panels = below.subfigures(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        (one, *_) = sides[own.name].values()
        counted = images_in_words(*_keys_and_units(run, one))
        title = f"Tested on {shards.name}, {labels.name}: {counted}"
        figure.suptitle(textwrap.fill(title, 120), fontsize=9)
        scores, losses = above.subplots(1, 2)
        _scores(scores, sides, own.name, metric)
        _losses(losses, run / "metrics.jsonl")
        if decodes:
            _reconstructions(panels[0], model, config, images[:_SHOWN])
        if searches:
            truth = [labels.labels_of(sample) for sample, _ in tested]
            wording = wording_of(shards.manifest, config.data.caption_template)
            _found(panels[-1], model, wording.template, class_keys(benchmark), images, truth)
        figure.savefig(path, metadata={"Software": None})


def _keys_and_units(run: Path, row: dict[str, Any]) -> tuple[list[str], list[str]]:
    predictions, _ = predictions_of(run, row)
    return list(predictions.keys), list(predictions.units)


def _tested(benchmark: Benchmark) -> list[tuple[LabelledSample, Image.Image]]:
    """Return test images, of many each nth one; which are damaged the evaluation has said."""
    every = benchmark.division.parts["test"]
    found = []
    for sample in every[:: len(every) // _SEARCHED + 1]:
        with suppress(DamagedSample):
            found.append((sample, sample_image(benchmark.dataset, sample.index)))
    return found


def differences(own: Scored, before: Scored) -> list[str]:
    """Return a line for every evaluation of a run: how it differs from the weights it began from.

    In the first metric of the task's kind, with the paired 95 % interval; where there is nothing to
    compare, why. A dagger marks test images that were in pre-training, and a line says how many.
    """
    theirs = {_split(row): row for row in before.rows}
    lines, seen = list[str](), list[dict[str, dict[str, Any]]]()
    for row in own.rows:
        if row["metric"] != metrics_of(str(row.get("kind") or "class"))[0]:
            continue
        where = f"{row['dataset']} {row['task']}, {row['protocol']}"
        other = theirs.get(_split(row))
        if other is None:
            lines.append(f"{where}: not compared: no {row['protocol']} of the {before.name}")
            continue
        if row["value"] is None or other["value"] is None:
            lines.append(f"{where}: not compared: {row['note'] or other['note']}")
            continue
        both = {before.name: other, own.name: row}
        lines.append(f"{where}: {_difference(own, before, both)}")
        seen.append(both)
    sides = {name: [both[name] for both in seen] for name in (before.name, own.name)}
    return [*lines, *_seen_lines(sides)]


def _difference(own: Scored, before: Scored, both: Mapping[str, dict[str, Any]]) -> str:
    row = both[own.name]
    ours, theirs = (predictions_of(one.directory, both[one.name])[0] for one in (own, before))
    found = paired_bootstrap(metric := row["metric"], [ours], [theirs])
    ends = ", ".join(written(metric, end, "+") for end in found[1:3] if end is not None)
    mark = DAGGER * any(one.get("seen") for one in both.values())
    return (
        f"{_NAMES[metric]} {written(metric, found.value, '+')}{mark}"
        f"{f' [{ends}]' if ends else ''} against the {before.name}, on the same "
        f"{images_in_words(ours.keys, ours.units)}"
    )


def _split(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("dataset", "task", "protocol", "fraction", "seed", "metric")
    return tuple(row[name] for name in names)


def _seen_lines(sides: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[str]:
    """Return what rows say of test images in pre-training; of whose, where not all weights do."""
    named: dict[str, list[str]] = {}
    for name, rows in sides.items():
        for line in dict.fromkeys(filter(None, map(seen_line, rows))):
            named.setdefault(line, []).append(name)
    return [
        line if len(names) == len(sides) else f"{', '.join(names)}: {line}"
        for line, names in named.items()
    ]


def _scores(
    axes: Axes, sides: Mapping[str, Mapping[str, dict[str, Any]]], own: str, metric: str
) -> None:
    """Draw the score of each protocol that a run has, beside what it began from.

    Args:
        sides: of each weights their rows by protocol; those of the run, called `own`, are green.
    """
    base, unit = (0.0, 1.0) if metric in NOT_IN_PER_CENT else (50.0, 100.0)
    protocols, ends = list(sides[own]), [base]
    sides = {name: {p: of[p] for p in protocols if p in of} for name, of in sides.items()}
    notes = _seen_lines({name: of.values() for name, of in sides.items()})
    for at, protocol in enumerate(protocols):
        rows = {name: of[protocol] for name, of in sides.items() if protocol in of}
        notes += [f"{protocol}: {row['note']}" for row in rows.values() if row["value"] is None]
        shown = {name: row for name, row in rows.items() if row["value"] is not None}
        for place, (name, row) in enumerate(shown.items()):
            x, value = at + 0.38 * (place - (len(shown) - 1) / 2), unit * row["value"]
            interval = [unit * row[end] for end in ("low", "high") if row[end] is not None]
            mark = DAGGER * bool(row.get("seen"))
            colour = _RIGHT if name == own else _SOFT
            axes.bar(x, value - base, 0.36, bottom=base, color=colour, label=name)
            if interval:
                axes.vlines(x, *interval, color=_INK, lw=1.2)
            ends += [value, *interval]
            axes.annotate(
                f"{written(metric, row['value'])}{mark}", (x, max(base, value, *interval)),
                (0, 2), textcoords="offset points", ha="center", fontweight="bold",
            )  # fmt: skip
    axes.axhline(base, color=_INK, lw=0.6)
    low, high = (
        (0.0, max(ends) or 1.0) if not base else (min(45.0, *(end - 3 for end in ends)), 100.0)
    )
    if base:
        axes.set_yticks(range(100, int(low), -10))
    axes.set(
        ylim=(low, high + 0.22 * (high - low)),  # above there is room for the legend
        title="Frozen encoder on these test images", ylabel=f"{_AXES[metric]}, 95 % interval",
    )  # fmt: skip
    axes.set_xticks(range(len(protocols)), protocols)
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    names = [name for name in sides if name in handles]
    axes.legend([handles[name] for name in names], names, loc="upper right", ncols=2)
    below = "\n".join(textwrap.fill(line, _NOTE_WIDTH) for line in dict.fromkeys(notes))
    axes.set_xlabel(below, fontsize=6.5, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _losses(axes: Axes, path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    words = {"loss_mim": "hidden patches (eq. 1)", "loss_clip": "image-text (eq. 4)",
             "loss_mfd": "teacher's features (eq. 5)", "loss_dino": "views (DINO)",
             "loss_ibot": "hidden patches (iBOT)", "loss_koleo": "spread (KoLeo)"}  # fmt: skip
    for name, label in words.items():
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:  # of one row there is no line
            marker = "o" if len(points) == 1 else ""
            axes.plot(*zip(*points, strict=True), label=label, lw=1.4, marker=marker)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="step", title="Losses of the training, before their weights")
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
        for spare in axes[len(images) :]:
            spare.set_axis_off()
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
