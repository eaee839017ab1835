"""Weights are evaluated at any size that their patch divides, and every table says at which."""

import csv
from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from maskedclip.evaluate.features import FrozenEncoder
from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune.command import read_evaluate
from maskedclip.inference import load
from maskedclip.metrics.results import read_rows, recomputed, table
from maskedclip.metrics.seen_images import in_words, input_lines
from maskedclip.models.checkpoints.formats import Preparation
from maskedclip.report.build import report
from maskedclip.report.command import ReportConfig
from maskedclip.report.compare_methods import compare
from tests.colours import two_colours
from tests.report.pages.runs import Place, predicted, write_run
from tests.untrained import exported


def measured(root: Path) -> Path:
    """Return a run of 32 px that is evaluated at 64 and at its own size."""
    run = root / "runs" / "ours"
    exported(run)
    dataset = [(two_colours(root / "colours"), "")]
    for size in (64, 0):
        evaluate(run, dataset, ["knn"], run, image_size=size)
    return run


def test_positions_are_interpolated_to_the_size_asked_for(tmp_path: Path) -> None:
    network, _ = exported(tmp_path / "ours")
    image_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = load(tmp_path / "ours", image_size=64)
    assert (found.image_size, found.preparation.image_size) == (64, 64)
    position = resample_abs_pos_embed(network.encoder.pos_embed, [4, 4])
    network.encoder.pos_embed = position
    with torch.no_grad():
        expected = network.eval().encode_image(image_BCHW)
    assert torch.allclose(found.features(image_BCHW), expected, atol=1e-6)


def test_a_size_that_the_patch_does_not_divide_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"image_size 40 is not a multiple of 16, .*; use 32"):
        evaluate(tmp_path / "ours", [(tmp_path / "no", "")], ["knn"], tmp_path, image_size=40)
    with pytest.raises(ValueError, match="not a multiple of 16"):
        load(tmp_path / "ours", image_size=40)
    two_colours(tmp_path / "colours")
    with pytest.raises(SystemExit):
        read_evaluate("", ["random", f"--datasets={tmp_path / 'colours'}", "--image_size=-32"])
    assert "image_size -32 is negative" in capsys.readouterr().err


def test_features_and_rows_of_two_sizes_stand_beside_one_another(tmp_path: Path) -> None:
    run = measured(tmp_path)
    assert len(list((run / "features").iterdir())) == 2
    rows = [row for row in read_rows(run) if row["metric"] == "auroc"]
    assert [(row["image_size"], row["colours"]) for row in rows] == [
        (64, "imagenet"),
        (32, "imagenet"),
    ]
    assert len({row["inputs"] for row in rows}) == 2
    for row in rows:
        assert recomputed(run, row).value == row["value"]
    text = table(read_rows(run))
    assert text.count("\ncolours  colour  knn") == 2
    assert " 64 " in text
    assert "Images were not seen alike." in text
    assert FrozenEncoder(run, image_size=32).resized is False


def test_the_report_marks_lines_of_unlike_size_and_says_it_under_the_table(tmp_path: Path) -> None:
    run = measured(tmp_path)
    out = tmp_path / "report"
    written = report([run], ReportConfig(out=str(out), protocol="knn", pictures=0))
    assert written.problems == []
    for name in ("table1.md", "table1.tex", "index.html"):
        text = (out / name).read_text()
        assert "ours, 32 px: 32 px, ImageNet" in text.replace("&#39;", "'")
        assert "ours, 64 px: 64 px, ImageNet" in text.replace("&#39;", "'")
    lines = list(csv.DictReader((out / "table1.csv").read_text().splitlines()))
    assert {(line["method"], line["image_size"]) for line in lines} == {
        ("ours, 32 px", "32"),
        ("ours, 64 px", "64"),
    }
    assert any("64 px, ImageNet" in page.read_text() for page in (out / "runs").iterdir())


def test_compare_takes_one_size_where_both_have_it_and_else_says_that_they_differ(
    tmp_path: Path,
) -> None:
    run = measured(tmp_path)
    assert "+0.0 [+0.0, +0.0]" in compare(run, run)
    other = tmp_path / "other"
    evaluate(run, [(tmp_path / "colours", "")], ["knn"], other, image_size=96)
    third = tmp_path / "third"
    evaluate(run, [(tmp_path / "colours", "")], ["knn"], third)
    assert "first: 96 px, ImageNet's colours; second: 32 px" in compare(other, third)
    with pytest.raises(ValueError, match="at 64 px and 32 px, and at 96 px"):
        compare(run, other)


def test_one_size_is_one_line_and_older_rows_are_named() -> None:
    one, other = "224 px, ImageNet's colours", "512 px, colours from 0 to 1"
    assert input_lines([("a", one), ("b", one)]) == ["224 px, ImageNet's colours."]
    assert input_lines([("a", ""), ("b", "")]) == []
    (line,) = input_lines([("a", one), ("b", other), ("c", "")])
    assert line == (
        f"Images were not seen alike. a: {one}; b: {other}; "
        "c: size not stated by the version that measured it."
    )
    assert in_words({"image_size": 512, "colours": Preparation(512, *_bare()).colours}) == other
    half = Preparation(224, (0.5,) * 3, (0.5,) * 3)
    assert in_words({"image_size": 224, "colours": half.colours}) == "224 px, colours from -1 to 1"
    own = Preparation(224, (0.4, 0.3, 0.2), (0.2, 0.2, 0.1))
    assert own.colours == "mean 0.4 0.3 0.2, deviation 0.2 0.2 0.1"


def _bare() -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (0.0,) * 3, (1.0,) * 3


def test_a_report_on_rows_without_a_size_is_as_it_was(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", Place("old", "idrid"), predicted("idrid", 5, 2.0, 0))
    report([tmp_path / "runs"], ReportConfig(out=str(tmp_path / "report"), pictures=0))
    assert " px" not in (tmp_path / "report" / "table1.md").read_text()
