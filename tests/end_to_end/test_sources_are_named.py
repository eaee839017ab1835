"""Predictions, worst errors, maps and sheets name the file in the download, not a hash of it."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.protocols import evaluate
from maskedclip.explain.command import ExplainConfig
from maskedclip.explain.overlays import explain
from maskedclip.finetune.loop import finetune
from maskedclip.metrics.results import predictions_of, read_rows
from maskedclip.report.collect import read, results_of
from maskedclip.report.pages.run_page import write_pages
from maskedclip.report.pages.run_statistics import worst
from maskedclip.shards.building.contact_sheet import tile
from maskedclip.shards.make import ShardRequest, build
from maskedclip.shards.phantoms.phantom import draw
from tests.colours import config_of


def shards_of(root: Path, *, anonymise: bool = False) -> Path:
    """Build shards of drawn photographs in folders of two classes, whose looks tell nothing."""
    out = root / ("hidden" if anonymise else "photos")
    for split, count in (("train", 4), ("val", 3), ("test", 4)):
        for number in range(count):
            for name in ("ill", "well"):
                path = root / "download" / split / name / f"eye {number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw(number, 64).image_HWC).save(path)
    request = ShardRequest(
        dataset="folder", root=root / "download", out=out, name=out.name, classes="health",
        workers=1, anonymise=anonymise,
    )  # fmt: skip
    build(request, progress=False)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    shards = shards_of(root)
    finetune(replace(config_of(root), dataset=str(shards), epochs=2))
    evaluate("random", [(shards, "")], ("knn",), root / "ours", size="micro")
    return root / "ours"


def sources_in(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [line["source"] for line in csv.DictReader(file)]


def test_predictions_of_fine_tunings_and_probes_name_the_file_in_the_download(run: Path) -> None:
    paths = {row["protocol"]: run / row["predictions"] for row in read_rows(run)}
    expected = sorted(f"test/{name}/eye {i}.png" for name in ("ill", "well") for i in range(4))
    assert set(paths) == {"finetune", "knn"}
    for path in paths.values():
        assert path.read_text().splitlines()[0] == "id,source,label,ill,well"
        assert sorted(sources_in(path)) == expected
        shards = Shards(run.parent / "photos")
        index_of = {shards.key(index): index for index in range(len(shards))}
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                assert line["source"] == shards.metadata(index_of[line["id"]])["source"]
                assert line["label"] == line["source"].split("/")[1]


def test_predictions_without_sources_are_read_as_before(run: Path, tmp_path: Path) -> None:
    row = read_rows(run)[0]
    now, classes = predictions_of(run, row)
    old = tmp_path / row["predictions"]
    old.parent.mkdir()
    lines = (run / row["predictions"]).read_text().splitlines()
    without = [",".join(cells[:1] + cells[2:]) for cells in (line.split(",") for line in lines)]
    old.write_text("\n".join(without) + "\n")
    units = old.with_suffix(".units.csv")
    units.write_bytes((run / row["predictions"]).with_suffix(".units.csv").read_bytes())
    before, same = predictions_of(tmp_path, row)
    assert (before.sources, before.keys, same) == ((), now.keys, classes)
    np.testing.assert_array_equal(before.label_B, now.label_B)
    np.testing.assert_array_equal(before.probability_BY, now.probability_BY)


def test_an_anonymised_build_gives_the_key(tmp_path: Path) -> None:
    task = labelled(Shards(shards_of(tmp_path, anonymise=True)))
    assert {sample.source == sample.key for sample in task.samples} == {True}


def test_worst_errors_maps_and_the_contact_sheet_show_it(run: Path, tmp_path: Path) -> None:
    (result, *_), _ = results_of(run, read_rows(run))
    write_pages([result], tmp_path, most=3)
    (page,) = tmp_path.glob("*.html")
    predictions, _ = read(result)
    mistakes = worst(predictions.keys, predictions.label_B, predictions.probability_BY, 3)
    assert mistakes  # the same pictures are in both classes
    source_of = dict(zip(predictions.keys, predictions.sources, strict=True))
    for mistake in mistakes:
        assert f"<br>{source_of[mistake.key]}</small>" in page.read_text()
    dataset = str(run.parent / "photos")
    config = ExplainConfig(weights=str(run), dataset=dataset, count=2, methods=("rollout",),
                           out=str(tmp_path / "maps"))  # fmt: skip
    assert set(sources_in(explain(config) / "maps.csv")) <= set(predictions.sources)
    shards = Shards(Path(dataset))
    name = Path(shards.metadata(0)["source"]).name
    assert tile(shards, 0, "0.123").lines[:3] == (f".../{name}", shards.key(0), "0.123")
