"""A cell is done only if the bytes of its results are those that were written."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from maskedclip.grid.manifest import (
    Cell,
    Grid,
    Submission,
    forget_damaged,
    write_evaluated,
    write_shown,
)
from maskedclip.grid.status import DONE, FAILED, status_of
from maskedclip.jobs.slurm_queue import GONE, JobState
from maskedclip.metrics.prediction_files import Predictions, write_test_split
from maskedclip.metrics.result_record import write_record
from maskedclip.metrics.results import read_rows, write_rows
from maskedclip.metrics.scores import METRICS
from maskedclip.models.checkpoints.sealed import is_whole, save_sealed
from maskedclip.models.checkpoints.verified import is_intact
from tests.grid.grids import finetuned, finetuning, grid_of, pretrained, pretraining

FILES = {  # of each cell, whose noise is seen wherever it lies
    "trained": ("encoder.safetensors", "model.safetensors"),
    "tuned": (
        "finetuned.safetensors", "results.jsonl", "sha256.json", "predictions/a-test.csv",
        "predictions/a-test.units.csv",
    ),
    "measured": ("results.jsonl", "predictions/a-test.csv", "predictions/a-test.units.csv"),
    "report": ("index.html", "shown.json", "pages/a.svg"),
}  # fmt: skip
EACH = 25  # damages of a file


def scored(run: Path) -> list[dict[str, object]]:
    """Write the predictions of a test split; return the rows that name them."""
    generator = np.random.default_rng(0)
    keys = [f"s{i:03d}" for i in range(30)]
    probability_BY = generator.dirichlet([1, 1], 30).astype(np.float32)
    label_B = generator.integers(0, 2, 30)
    name = "predictions/a-test.csv"
    write_test_split(run / name, ["no", "yes"], Predictions(keys, keys, label_B, probability_BY))
    values = {metric: 0.5 + 0.01 * i for i, metric in enumerate(METRICS)}
    return [{"metric": m, "value": v, "predictions": name} for m, v in values.items()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, dict[str, Path]]:
    """Make a grid of a cell of each stage, all of them done, and give their directories."""
    out = tmp_path_factory.mktemp("runs")
    directory = out / "grids" / "g"
    runs = {name: out / name for name in ("trained", "tuned", "measured")}
    pretrained(runs["trained"])
    generator = torch.Generator().manual_seed(0)
    weights = {f"encoder.{i}": torch.randn(16, 17, generator=generator) for i in range(3)}
    weights |= {"scale": torch.ones(1), "half": torch.randn(5).bfloat16()}
    for name in FILES["trained"]:
        save_sealed(weights, runs["trained"] / name, {"size": "micro"}, {"a": 1})
    finetuned(runs["tuned"])
    (runs["tuned"] / "results.jsonl").unlink()
    rows = scored(runs["tuned"])
    write_record(runs["tuned"], rows)
    write_rows(runs["tuned"], rows)
    save_sealed(weights, runs["tuned"] / "finetuned.safetensors", {"classes": ["no", "yes"]})
    runs["measured"].mkdir()
    write_rows(runs["measured"], scored(runs["measured"]))
    measured = Cell("measured", "evaluate", {"out": "../../measured"}, ())
    write_evaluated(measured, runs["measured"], ["predictions/a-test.csv"])
    shown = Cell("report", "report", {"out": "report", "runs": [str(runs["tuned"])]}, ())
    grid = grid_of(directory, [pretraining("trained"), measured, finetuning("tuned"), shown])
    runs["report"] = directory / "report"
    (runs["report"] / "pages").mkdir(parents=True)
    (runs["report"] / "index.html").write_text("<html>" + "a table " * 200 + "</html>\n")
    (runs["report"] / "pages" / "a.svg").write_text("<svg>" + "<path/>" * 100 + "</svg>\n")
    facts = (runs["tuned"] / "results.jsonl").stat()
    results = {str(runs["tuned"] / "results.jsonl"): [facts.st_size, facts.st_mtime_ns]}
    write_shown(runs["report"], results)
    return grid, runs


def states(grid: Grid) -> dict[str, tuple[str, str]]:
    return {row.cell: (row.state, row.note) for row in status_of(grid, {}, [], 1e12)}


def test_all_are_done_and_nothing_is_merely_present(made: tuple[Grid, dict[str, Path]]):
    assert states(made[0]) == dict.fromkeys(FILES, (DONE, ""))


def one_bit(content: bytearray, generator: random.Random) -> None:
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)


def noise(content: bytearray, generator: random.Random) -> None:
    """Put noise into a half of it, of the same length."""
    start = generator.randrange(len(content) // 2 + 1)
    half = len(content) // 2
    content[start : start + half] = generator.randbytes(half)


def zeros(content: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(content) - 8)
    content[start : start + 8] = bytes(8)


def cut(content: bytearray, generator: random.Random) -> None:
    del content[generator.randrange(len(content)) :]


@pytest.mark.parametrize("damage", [one_bit, noise, zeros, cut], ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    ("cell", "name"), [(cell, name) for cell, names in FILES.items() for name in names]
)
def test_damage_of_a_result_file_is_seen_wherever_it_lies(
    made: tuple[Grid, dict[str, Path]],
    cell: str,
    name: str,
    damage: Callable[[bytearray, random.Random], None],
):
    grid, runs = made
    one = grid._replace(cells=tuple(c for c in grid.cells if c.name == cell))
    path, generator = runs[cell] / name, random.Random(f"{cell} {name}")
    whole, facts = path.read_bytes(), path.stat()
    seen = 0
    for _ in range(EACH):
        content = bytearray(whole)
        damage(content, generator)
        if bytes(content) == whole or _says_the_same(name, whole, bytes(content)):
            continue
        path.write_bytes(content)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as if nobody had written
        seen += 1
        assert states(one)[cell][0] != DONE
    assert seen > EACH // 2
    path.write_bytes(whole)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert states(one)[cell] == (DONE, "")


def _says_the_same(name: str, before: bytes, after: bytes) -> bool:
    """Return whether another text of JSON, such as one with other blanks, means the same."""
    if not name.endswith(".json"):
        return False
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


def test_a_table_that_is_gone_is_no_result_and_weights_that_were_removed_are_said(
    made: tuple[Grid, dict[str, Path]],
):
    grid, runs = made
    weights, table = (runs["tuned"] / name for name in (FILES["tuned"][0], FILES["tuned"][3]))
    away = weights.rename(weights.with_suffix(".away"))
    said = "not there any more: finetuned.safetensors"
    assert states(grid)["tuned"] == (DONE, said)
    away.rename(weights)
    away = table.rename(table.with_suffix(".away"))
    assert states(grid)["tuned"][0] != DONE
    away.rename(table)
    assert states(grid)["tuned"] == (DONE, "")


def test_results_of_older_versions_are_called_present(tmp_path: Path):
    (tmp_path / "grids" / "g").mkdir(parents=True)
    pretrained(tmp_path / "old")
    finetuned(tmp_path / "older")
    grid = grid_of(tmp_path / "grids" / "g", [pretraining("old"), finetuning("older")])
    found = states(grid)
    said = "present, without a sha256: "
    assert found["old"] == (DONE, f"{said}encoder.safetensors, model.safetensors")
    assert found["older"][1].startswith(f"{said}results.jsonl")


def bytes_read() -> int:
    """Return how many bytes this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_large_file_is_read_again_only_when_it_was_changed(tmp_path: Path):
    path = tmp_path / "encoder.safetensors"
    save_sealed({"weight": torch.zeros(1 << 23)}, path, {})
    assert is_intact(path)
    assert json.loads((tmp_path / ".verified.json").read_bytes()).keys() == {path.name}
    before = bytes_read()
    assert all(is_intact(path) for _ in range(20))
    assert bytes_read() - before < path.stat().st_size
    facts = path.stat()
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"\1")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert is_intact(path) is False


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"\x10\0\0\0\0\0\0\0{}", b"[]" * 20])
def test_what_is_no_safetensors_file_is_not_whole(tmp_path: Path, content: bytes):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert is_whole(path) is False


def test_failed_is_said_of_damaged_results_whose_job_is_over(made: tuple[Grid, dict[str, Path]]):
    from maskedclip.grid.manifest import Submission
    from maskedclip.jobs.slurm_queue import JobState

    grid, runs = made
    path = runs["trained"] / "encoder.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    answers = {"7": JobState("COMPLETED", "", "0:0")}
    rows = status_of(grid, answers, [Submission("trained", "7", 1, 0.0, "")], 1e12)
    assert rows[0].state == FAILED
    path.write_bytes(whole)


def test_what_was_asked_for_after_a_cell_was_done_is_missing_and_not_failed(
    made: tuple[Grid, dict[str, Path]],
) -> None:
    grid, _ = made
    more = {"measured": {"protocols": ["knn", "linear"]}, "report": {"runs": []}}
    grid = grid._replace(
        cells=tuple(c._replace(config=c.config | more.get(c.name, {})) for c in grid.cells)
    )
    over = {"h:4711:1": JobState(GONE, ""), "7_1": JobState("COMPLETED", "", "0:0")}
    for job in over:
        sent = [Submission(cell, job, 1, 0.0, "logs/none") for cell in more]
        rows = {row.cell: (row.state, row.note) for row in status_of(grid, over, sent, 1e12)}
        assert rows["measured"] == ("missing", "measured before other protocols were asked for")
        assert rows["report"] == ("missing", "results came since; it is made again")
        later = [one._replace(time_s=1e12) for one in sent]  # it was asked for those, and failed
        rows = {row.cell: (row.state, row.note) for row in status_of(grid, over, later, 2e12)}
        assert {rows[cell][0] for cell in more} == {"failed"}


def test_rows_that_are_not_as_they_were_written_go_before_a_cell_is_measured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = scored(tmp_path)
    by_hand = {"run": "b", "metric": "auroc", "value": 0.4, "predictions": "predictions/b-test.csv"}
    write_rows(tmp_path, [*rows, by_hand])
    names = ["predictions/a-test.csv"]
    write_evaluated(Cell("measured", "evaluate", {"out": "x"}, ()), tmp_path, names)
    forget_damaged(tmp_path)
    assert read_rows(tmp_path) == [*rows, by_hand]  # nothing is damaged

    results = tmp_path / "results.jsonl"
    results.write_text(results.read_text().replace('"value": 0.5,', '"value": 0.9,'))
    forget_damaged(tmp_path)
    assert read_rows(tmp_path) == [*rows[1:], by_hand]
    assert "results.jsonl: not as it was written; measured again" in caplog.text

    write_rows(tmp_path, rows)
    table = tmp_path / names[0]
    table.write_text(table.read_text().replace("s001", "s002"))
    forget_damaged(tmp_path)
    assert read_rows(tmp_path) == [by_hand]
