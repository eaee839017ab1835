"""What a run is, as text in TensorBoard: configuration, starts, datasets, captions.

One event file in the run's directory, made of its files and written anew where they changed: a
restart adds a line to the starts, and no second text.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskedclip.config import DataConfig, flat
from maskedclip.data.captions import captions, wording_of
from maskedclip.data.licences import may_be_shown
from maskedclip.data.source import Source
from maskedclip.data.storage.open_dataset import describe
from maskedclip.data.storage.shards import DamagedSample
from maskedclip.engine.provenance import attempts_in
from maskedclip.engine.whole_events import text, write_whole_events

logger = logging.getLogger(__name__)
_CAPTIONS = 8  # samples whose captions are shown
_OF_A_SAMPLE = 3  # captions of one
_UNKNOWN = "not stated"


def show_about(run: Path, uses: Mapping[str, str], said: Sequence[tuple[str, str]] = ()) -> None:
    """Write the texts of a run that has its config.json and provenance.json.

    A disk that does not take them, is said in a line: the files have what they show.

    Args:
        uses: directory of each dataset -> what it is used for.
        said: (dataset, captions) of some samples.
    """
    try:
        config = flat(json.loads((run / "config.json").read_text(encoding="utf-8")))
        texts = {
            "config": (_table(("field", "value"), config.items()), "config.json"),
            "starts": (_starts(attempts_in(run / "provenance.json")), "provenance.json"),
            "datasets": (_datasets(uses), "what it reads, and under which licence"),
        }
        if said:
            listed = "\n".join(f"- {_cell(words)} ({_cell(name)})" for name, words in said)
            texts["captions"] = (listed, "what the first paired images can be told with")
        inputs = json.dumps(texts).encode()
        write_whole_events(
            run, "about", inputs, lambda: [text(f"about/{t}", *body) for t, body in texts.items()]
        )
    except OSError as error:
        logger.warning("%s: TensorBoard does not say what it is (%s)", run, error.strerror or error)


def first_captions(source: Source | None, data: DataConfig) -> list[tuple[str, str]]:
    """Return (dataset, captions) of the samples that a run without a break is shown first.

    A report is shown where the licence of its dataset lets anyone show it.
    """
    if source is None:
        return []
    said = []
    for at in source.samples_at(0, _CAPTIONS):
        dataset = source.datasets[at.dataset]
        try:
            facts = dataset.metadata(at.sample)
        except DamagedSample:  # its place in the stream names it
            continue
        report, categories = facts["report"], facts["categories"]
        if report and data.caption_from != "categories" and not may_be_shown(dataset.manifest):
            words = "a report, not shown: its licence does not say that it may be"
        else:
            wording = wording_of(dataset.manifest, data.caption_template)
            every = captions(categories, report, wording, data.caption_from)
            words = "; ".join(every[:_OF_A_SAMPLE])
        said.append((dataset.name, words))
    return said


def uses_of(data: DataConfig, probe: str = "") -> dict[str, str]:
    """Return what the datasets of a pre-training, and of its probe, are used for."""
    paired, unpaired = data.read
    uses = dict.fromkeys(unpaired, "unpaired") | dict.fromkeys(paired, "paired")
    uses |= dict.fromkeys(set(paired) & set(unpaired), "paired and unpaired")
    return uses | ({probe: f"{uses[probe]}, probe" if probe in uses else "probe"} if probe else {})


def _starts(attempts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for number, facts in enumerate(attempts, 1):
        code = (facts.get("git") or {}).get("commit", _UNKNOWN)[:12]
        changed = " and changes" if (facts.get("git") or {}).get("diff_sha256") else ""
        packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
        machine = f"{facts.get('device', _UNKNOWN)} x {facts.get('world', 1)}"
        rows.append((number, code + changed, machine, packages, f"`{facts.get('command', '')}`"))
    return _table(("start", "code", "ranks", "packages", "command"), rows)


def _datasets(uses: Mapping[str, str]) -> str:
    rows = []
    for directory, use in uses.items():
        facts = describe(Path(directory))
        title = facts.get("recipe", {}).get("title") or facts.get("name") or directory
        rows.append((
            title, use, facts.get("samples", _UNKNOWN), facts.get("licence") or _UNKNOWN,
            facts.get("citation") or _UNKNOWN,
        ))  # fmt: skip
    return _table(("dataset", "used as", "images", "licence", "to cite"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    words = "" if value is None else str(value)
    return " ".join(words.replace("|", "/").replace("<", "&lt;").split())
