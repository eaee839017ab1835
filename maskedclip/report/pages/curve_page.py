"""The curves of runs as one HTML file that needs no server, no network and no TensorBoard."""

import base64
import hashlib
import io
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from maskedclip.engine.curves import (
    CHARTS,
    CURVES,
    FINETUNING_CURVES,
    GOODPUT,
    LAYOUT,
    PROBE,
    Curve,
    curve_of,
)
from maskedclip.report.pages.html import render, source_of
from maskedclip.report.run_curves import FINETUNING, PRETRAINING, Points, RunCurves, thinned

PAGE = "curves.html"
_PICTURE = "summary.png"  # what a run has learnt, on one picture
_PICTURE_SIDE, _QUALITY = 1100, 80
_LARGEST = 500  # points of a line, one a pixel of a figure
_LEAST = 30
_BYTES = 1_300_000  # of all lines, so that a page stays below 2 MB with its pictures
_PICTURES_BYTES = 400_000
_BYTES_A_POINT = 26  # mean, lowest and highest, as text
_OTHERS = "others"  # keys that curves.py does not know
_LOGARITHMIC = ("grad_norm", "update_ratio")  # drawn so at first where they span decades
_DECADES = 2
_SMOOTHED = 60  # points of a line from which on it helps
# which have no noise to be smoothed
_EXACT = frozenset({"lr", "logit_scale", "logit_bias", "memory_gib", "teacher_drift"})
# parts that share figures, each with one colour on all pages: modules, and terms of the loss
_PARTS = (
    ("all", "encoder", "bridge", "pixel_decoder", "feature_decoder", "text", "image_projection"),
    ("mim", "clip", "mfd", "dino", "ibot", "koleo"),
)
_ORDER = {curve.name: number for number, curve in enumerate((*FINETUNING_CURVES, *CURVES))}


def _compared() -> dict[str, tuple[str, ...]]:
    """Return the curves that share a figure of a run: those of a chart that have one unit."""
    charts = [(title, names) for chart in LAYOUT.values() for title, names in chart.items()]
    units = {curve.name: curve.unit for curve in CURVES}
    return {title: names for title, names in charts if len({units[name] for name in names}) == 1}


# name of a curve -> the title of the figure that it shares
_TITLES = {n: title for title, names in _compared().items() if len(names) > 1 for n in names}


class DrawnLine(NamedTuple):
    """A curve of a run."""

    run: int  # its number on the page
    part: str  # what tells it from other lines of the run in its figure
    points: Points
    curve: Curve
    reference: bool = False  # of no run on the page


class Figure(NamedTuple):
    """One pair of axes: what it shows, and its lines."""

    title: str
    description: str
    lines: list[DrawnLine]

    @property
    def chart(self) -> str:
        return self.lines[0].curve.chart

    @property
    def unit(self) -> str:
        return self.lines[0].curve.unit

    @property
    def smooth(self) -> bool:
        """Whether its lines have noise, and points enough to see through it."""
        longest = max(len(line.points.step_K) for line in self.lines)
        noisy = self.chart not in (GOODPUT, PROBE) and self.lines[0].curve.name not in _EXACT
        return noisy and longest >= _SMOOTHED

    @property
    def logarithmic(self) -> bool:
        """Whether the lines are drawn so at first: all are above 0, and span decades."""
        value_K = np.concatenate([line.points.value_K for line in self.lines])
        wide = value_K.min() > 0 and math.log10(value_K.max() / value_K.min()) >= _DECADES
        return bool(wide) and self.lines[0].curve.name in _LOGARITHMIC


def curve_page(
    runs: Sequence[RunCurves],
    title: str,
    *,
    pictures: bool = True,
    back: str = "",
    reference: Mapping[str, Points] | None = None,
) -> str:
    """Return the page of the runs as HTML below 2 MB.

    Args:
        pictures: whether the runs' own ones are on it: they may show photographs.
        back: address of the page of results, where there is one.
        reference: points by key that are drawn dashed beside those of each pre-training.
    """
    shown, left_out = _room_for(runs)
    most = _points_a_line(shown)
    sections = [
        (kind, _by_chart(figures_of(shown, kind, reference or {})))
        for kind in (PRETRAINING, FINETUNING)
        if any(run.kind == kind for run in shown)
    ]
    script = Markup(source_of("curves.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    every = [one for _, charts in sections for _, figures in charts for one in figures]
    return render(
        "curves",
        title=title, runs=shown, sections=sections, left_out=left_out, back=back, script=script,
        script_hash=f"sha256-{digest}", data=_data(shown, every, most),
        pictures=_pictures(shown) if pictures else [], rows=_rows_a_point(every, most),
        made=time.strftime("%Y-%m-%d %H:%M"), said=_said(shown),
        smooth=any(one.smooth for one in every),
    )  # fmt: skip


def _room_for(runs: Sequence[RunCurves]) -> tuple[list[RunCurves], list[str]]:
    """Return the runs whose lines a page has room for, and a line on the others."""
    room, shown = _BYTES // (_LEAST * _BYTES_A_POINT), list[RunCurves]()
    for run in runs:
        room -= len(run.points)
        if room < 0 and shown:
            break
        shown.append(run)
    rest = [run.name for run in runs[len(shown) :]]
    if not rest:
        return shown, []
    return shown, [
        f"curves of {len(rest)} of {len(runs)} runs are not drawn, as the page would be too large: "
        f"{', '.join(rest[:3])}{' ...' * (len(rest) > 3)}; name fewer runs, or one, for theirs"
    ]


def _points_a_line(runs: Sequence[RunCurves]) -> int:
    lines = sum(len(run.points) for run in runs)
    return min(_LARGEST, max(_LEAST, _BYTES // (_BYTES_A_POINT * max(1, lines))))


def figures_of(
    runs: Sequence[RunCurves], kind: str, reference: Mapping[str, Points]
) -> list[Figure]:
    """Return the figures of the runs of a kind, in the order of engine/curves.py.

    Of one run the parts of a curve share a figure, and curves that are to be compared; of several
    runs each has a figure of its own, with a line a run.
    """
    own = [(number, run) for number, run in enumerate(runs) if run.kind == kind]
    figures: dict[str, list[DrawnLine]] = {}
    for number, run in own:
        for key, points in run.points.items():
            curve = curve_of(key, finetuning=kind == FINETUNING) or Curve(key, _OTHERS, "", "")
            title, part = _place(key, run, alone=len(own) == 1)
            drawn = points._replace(value_K=curve.shown(1.0) * points.value_K)
            figures.setdefault(title, []).append(DrawnLine(number, part, drawn, curve))
    for key, points in reference.items() if kind == PRETRAINING else ():
        title, _ = _place(key, own[0][1], alone=len(own) == 1)
        if title in figures and "/" not in key:
            curve = figures[title][0].curve
            drawn = points._replace(value_K=curve.shown(1.0) * points.value_K)
            figures[title].append(DrawnLine(own[0][0], "reference", drawn, curve, reference=True))
    found = [Figure(title, _description(lines), lines) for title, lines in figures.items()]
    charts, last = (*CHARTS, _OTHERS), len(_ORDER)
    return sorted(
        found, key=lambda x: (charts.index(x.chart), _ORDER.get(x.lines[0].curve.name, last))
    )


def _place(key: str, run: RunCurves, *, alone: bool) -> tuple[str, str]:
    """Return the title of a key's figure, and what it is called in it.

    Args:
        alone: no other run of its kind is drawn.
    """
    name, *parts = key.split("/")
    if not alone:
        return " ".join((name, *parts)), ""
    if name in _TITLES:
        return _TITLES[name], name
    if parts:
        return " ".join((name, *parts[1:])), parts[0]
    return name, "all" if any(other.startswith(f"{key}/") for other in run.points) else ""


def _colours(figures: Sequence[Figure]) -> dict[str, int]:
    """Return the number of each part's colour; parts that share a figure have different ones."""
    number = {part: i for parts in _PARTS for i, part in enumerate(parts)}
    drawn = [[line for line in one.lines if not line.reference] for one in figures]
    together = [dict.fromkeys(map(_part, lines)) for lines in drawn]
    for parts in together:
        for part in parts:
            if part not in number:
                taken = {number.get(other) for own in together if part in own for other in own}
                number[part] = next(i for i in itertools.count() if i not in taken)
    return number


def _part(line: DrawnLine) -> str:
    """Return what has a colour of its own: a term's loss has that of the term."""
    return line.part.removeprefix("loss_")


def _description(lines: Sequence[DrawnLine]) -> str:
    by_name = {line.curve.name: line.curve.description for line in lines}
    if len(by_name) == 1:
        words = "".join(by_name.values())
        return words[:1].upper() + words[1:]
    return "; ".join(f"{name}: {words}" for name, words in by_name.items())


def _by_chart(figures: Sequence[Figure]) -> list[tuple[str, list[Figure]]]:
    charts = dict.fromkeys(one.chart for one in figures)
    return [(chart, [one for one in figures if one.chart == chart]) for chart in charts]


def _rows_a_point(figures: Sequence[Figure], most: int) -> int:
    """Return how many rows a point of the longest line is the mean of."""
    longest = max((len(line.points.step_K) for one in figures for line in one.lines), default=1)
    return max(1, -(-longest // most))


def _data(runs: Sequence[RunCurves], figures: Sequence[Figure], most: int) -> Markup:
    """Return what the script draws as JSON, in which no `<` can end the element it stands in."""
    steps: dict[bytes, int] = {}
    lists: list[list[int]] = []
    drawn, colours = [], _colours(figures)
    for one in figures:
        lines = []
        for line in one.lines:
            short = thinned(line.points, most)
            place = steps.setdefault(short.step_K.tobytes(), len(steps))
            if place == len(lists):
                lists.append(short.step_K.tolist())
            content: dict[str, Any] = {"run": line.run, "part": line.part, "at": place}
            if line.reference:
                content["reference"] = True
            else:
                content["colour"] = colours[_part(line)] if line.part else line.run
            content["value"] = _written(short.value_K)
            if short.low_K is not None and short.high_K is not None:
                content |= {"low": _written(short.low_K), "high": _written(short.high_K)}
            lines.append(content)
        drawn.append({"title": one.title, "unit": one.unit, "log": one.logarithmic,
                      "smooth": one.smooth, "lines": lines})  # fmt: skip
    said = [[{"step": step, "text": text} for step, text in run.alarms] for run in runs]
    names = [run.name for run in runs]
    page = {"runs": names, "steps": lists, "figures": drawn, "alarms": said}
    text = json.dumps(page, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _written(value_K: np.ndarray) -> list[float]:
    """Return the values with five digits, more than a screen shows."""
    return [float(f"{value:.5g}") for value in value_K.tolist()]


def _said(runs: Sequence[RunCurves]) -> list[str]:
    """Return the alarms of the runs, of each the latest first, and what could not be drawn."""
    lines = []
    for run in runs:
        name = f"{run.name}, " if len(runs) > 1 else ""
        lines += [f"{name}step {step:,}: {text}" for step, text in reversed(run.alarms)]
        lines += [f"{name}{fault}" for fault in run.faults]
    return lines


class RunPicture(NamedTuple):
    """A run's own picture, as a data address."""

    run: str
    address: str


def _pictures(runs: Sequence[RunCurves]) -> list[RunPicture]:
    found, room = [], _PICTURES_BYTES
    for run in runs:
        try:
            with Image.open(run.directory / _PICTURE) as opened:
                image = opened.convert("RGB")
        except OSError:
            continue  # it has none yet
        image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY)
        room -= file.tell()
        if room < 0:
            break
        text = base64.b64encode(file.getvalue()).decode()
        found.append(RunPicture(run.name, f"data:image/jpeg;base64,{text}"))
    return found


def described(runs: Sequence[RunCurves]) -> str:
    """Return a line a run for a terminal."""
    return "".join(f"{run.name}: {run.kind.lower()}, {run.progress}\n" for run in runs)
