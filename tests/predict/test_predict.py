"""What a fine-tuned network says of a folder is what it said of the same images in shards."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.config import FinetuneConfig
from maskedclip.data.storage.shards import Shards
from maskedclip.finetune.loop import finetune
from maskedclip.inference import read_header
from maskedclip.metrics.cells import safe_path, safe_text
from maskedclip.metrics.prediction_files import read_predictions, read_test_split
from maskedclip.metrics.results import read_rows
from maskedclip.predict.classify import run
from maskedclip.predict.command import PredictConfig, read_predict
from maskedclip.shards.make import ShardRequest, build
from maskedclip.shards.phantoms.phantom import draw
from tests.colours import config_of, two_colours
from tests.kinds_of_tasks import write_ages, write_findings
from tests.untrained import exported

ENDINGS = ("jpg", "png", "tif")


def photograph(path: Path, number: int, channel: int) -> None:
    """Draw a phantom in a black frame that is wider on one side, tinted."""
    image_HWC = draw(number, 96).image_HWC.astype(int)
    image_HWC[..., channel] += 60 * (image_HWC.sum(axis=2) > 60)
    path.parent.mkdir(parents=True, exist_ok=True)
    framed_HWC = np.pad(image_HWC.clip(0, 255).astype(np.uint8), ((0, 0), (20, 31), (0, 0)))
    exif = Image.Exif()
    exif[0x0112] = 6 if number % 2 else 1  # turned by a quarter
    Image.fromarray(framed_HWC).save(path, exif=exif)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in folders, their shards, and a fine-tuning on these."""
    directory = tmp_path_factory.mktemp("root")
    for split, count in (("train", 6), ("val", 3), ("test", 6)):
        for number in range(count):
            for channel, name in enumerate(("red eye", "well")):
                file = f"{split}{number}.{ENDINGS[number % 3]}"
                photograph(
                    directory / "photos" / split / name / file, 10 * number + channel, channel
                )
    request = ShardRequest(
        dataset="folder", root=directory / "photos", out=directory / "shards", name="photos",
        classes="colour", size=80, quality=80, workers=1,
    )  # fmt: skip
    build(request, progress=False)
    config = replace(config_of(directory), dataset=str(directory / "shards"), epochs=2)
    finetune(config)
    return directory


def predicted(root: Path, folder: Path, out: Path) -> dict[str, dict[str, str]]:
    run(PredictConfig(run=str(root / "ours"), folder=str(folder), out=str(out), threads=0))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    return {row["path"]: row for row in rows}


def in_the_run(root: Path) -> dict[str, dict[str, float]]:
    """Return the probabilities of the run's own predictions, by the path of the image."""
    shards = Shards(root / "shards")
    source_of = {shards.key(i): shards.metadata(i)["source"] for i in range(len(shards))}
    row = read_rows(root / "ours")[0]
    keys, classes, _, probability_BY = read_predictions(root / "ours" / row["predictions"])
    return {
        source_of[key]: dict(zip(classes, row_Y.tolist(), strict=True))
        for key, row_Y in zip(keys, probability_BY, strict=True)
    }


def test_images_have_the_probabilities_that_their_shards_had_in_the_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predicted(root, root / "photos", tmp_path / "a.csv")
    expected = in_the_run(root)
    assert len(found) == 30
    assert len(expected) == 12
    for path, probabilities in expected.items():
        for name, value in probabilities.items():
            assert float(found[path][name]) == pytest.approx(value, abs=1e-6)
        assert found[path]["class"] == max(probabilities, key=lambda name: probabilities[name])
    said = capsys.readouterr().out
    assert "30 images, 30 of them computed now" in said
    for name in ("red eye", "well"):
        count = sum(row["class"] == name for row in found.values())
        assert f"  {name:7}  {count:6d}  {count / 30:6.1%}\n" in said
    assert "next: python -m maskedclip.explain" in said
    shards = predicted(root, root / "shards", tmp_path / "b.csv")
    for path, probabilities in expected.items():
        assert float(shards[path]["well"]) == pytest.approx(probabilities["well"], abs=1e-6)


def test_one_image_is_predicted_as_in_its_folder(root: Path, tmp_path: Path) -> None:
    image = root / "photos" / "test" / "well" / "test1.png"
    found = predicted(root, image, tmp_path / "one.csv")
    expected = in_the_run(root)["test/well/test1.png"]["well"]
    assert float(found["test1.png"]["well"]) == pytest.approx(expected, abs=1e-6)


def test_what_was_killed_goes_on_and_computes_no_row_twice(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = tmp_path / "a.csv", tmp_path / "a.rows.jsonl"
    folder = root / "photos" / "test"
    predicted(root, folder, out)
    whole, lines = out.read_bytes(), rows.read_text().splitlines(keepends=True)
    marked = json.loads(lines[1]) | {"values": [0.25, 0.75]}  # to see that it is not computed again
    rows.write_text(lines[0] + json.dumps(marked) + "\n" + "".join(lines[2:5]) + lines[5][:20])
    out.unlink()
    capsys.readouterr()
    found = predicted(root, folder, out)
    assert "12 images, 8 of them computed now" in capsys.readouterr().out
    assert found[marked["path"]]["well"] == "0.75"
    rows.write_text("".join(lines[:7]))
    predicted(root, folder, out)
    assert out.read_bytes() == whole


def test_only_new_and_changed_images_are_computed_and_those_that_are_gone_are_left_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tmp_path / "images", tmp_path / "a.csv"
    shutil.copytree(root / "photos" / "test" / "well", folder)
    predicted(root, folder, out)
    (folder / "test0.jpg").unlink()
    photograph(folder / "test1.png", 7, 0)
    photograph(folder / "deeper" / "new.jpg", 8, 0)
    capsys.readouterr()
    with caplog.at_level("INFO"):
        found = predicted(root, folder, out)
    assert "6 images, 2 of them computed now" in capsys.readouterr().out
    assert set(found) == {"deeper/new.jpg", *(f"test{i}.{ENDINGS[i % 3]}" for i in range(1, 6))}
    assert "4 of 6 images are predicted already" in caplog.text
    assert "1 changed since and predicted again, such as test1.png" in caplog.text
    assert "1 no longer there and left out, such as test0.jpg" in caplog.text


def test_other_weights_other_images_and_other_tables_are_refused(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.csv"
    predicted(root, root / "photos" / "test" / "well", out)
    with pytest.raises(ValueError, match=r"holds predictions of other images, .*well; choose"):
        predicted(root, root / "photos" / "test" / "red eye", out)
    rows = tmp_path / "a.rows.jsonl"
    facts, *lines = rows.read_text().splitlines(keepends=True)
    weights = {"run": "runs/theirs", "sha256": "0"}
    rows.write_text(json.dumps(json.loads(facts) | {"weights": weights}) + "\n" + "".join(lines))
    with pytest.raises(ValueError, match="holds predictions of other weights, runs/theirs; choose"):
        predicted(root, root / "photos" / "test" / "well", out)
    rows.unlink()
    with pytest.raises(ValueError, match=r"a\.csv: is there, and a\.rows\.jsonl"):
        predicted(root, root / "photos" / "test" / "well", out)


def test_what_cannot_be_read_is_listed_with_its_reason_and_tried_again(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tmp_path / "images", tmp_path / "a.csv"
    photograph(folder / "=good.jpg", 3, 0)
    (folder / "-bad.jpg").write_bytes(b"no image")
    (folder / "empty.png").touch()
    (folder / "scan.heic").write_bytes(b"not a format that is read")
    found = predicted(root, folder, out)
    assert set(found) == {"./=good.jpg"}
    listed = (tmp_path / "a.unreadable.csv").read_text().splitlines()
    assert listed == [
        "path,reason", "./-bad.jpg,not an image of a known format", "empty.png,the file is empty",
    ]  # fmt: skip
    assert "not read: 2, in" in capsys.readouterr().out
    assert "1 .heic: not read, such as scan.heic" in caplog.text
    photograph(folder / "-bad.jpg", 4, 0)
    (folder / "empty.png").unlink()
    assert set(predicted(root, folder, out)) == {"./-bad.jpg", "./=good.jpg"}
    assert not (tmp_path / "a.unreadable.csv").exists()


def test_images_are_left_whole_for_a_network_trained_on_tars_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_colours(tmp_path / "colours")
    config: FinetuneConfig = replace(config_of(tmp_path), epochs=2)
    finetune(config)
    shards, folder = Shards(tmp_path / "colours"), tmp_path / "images"
    folder.mkdir()
    row = read_rows(tmp_path / "ours")[0]
    keys, classes, _, probability_BY = read_predictions(tmp_path / "ours" / row["predictions"])
    for index in range(len(shards)):
        if shards.key(index) in keys:
            (folder / f"{shards.key(index)}.jpg").write_bytes(shards.image(index))
    found = predicted(tmp_path, folder, tmp_path / "a.csv")
    assert "without a crop to the field of view" in caplog.text
    for key, row_Y in zip(keys, probability_BY, strict=True):
        assert float(found[f"{key}.jpg"][classes[0]]) == pytest.approx(row_Y[0], abs=1e-6)


def test_cells_that_a_spreadsheet_would_run_are_made_text() -> None:
    assert [safe_text(text) for text in ("=1+1", "+cmd", "-x", "@a", "well")] == [
        "'=1+1", "'+cmd", "'-x", "'@a", "well",
    ]  # fmt: skip
    assert safe_text("-1.5") == "-1.5"  # a class that is a number
    assert (safe_path("=a.jpg"), safe_path("a/=b.jpg")) == ("./=a.jpg", "a/=b.jpg")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["cells", "images"], "cells: holds 2 fine-tuned runs; give one of them: cells/a, cells/b"),
        (["pretrained", "images"], "pretrained: a pre-training run, which has no classes"),
        (["empty", "images"], "holds no finetuned.safetensors; name a fine-tuned run, or let"),
        (["images/x.jpg", "images"], "images/x.jpg: no fine-tuned network of ours"),
        (["nothing", "images"], "nothing: no such run; give a fine-tuned run"),
        (["cells/a", "pictures"], "pictures: no such folder or image"),
        (["cells/a", "images", "--out=images"], "--out images: is a folder; name a file"),
        (["cells/a", "images", "--out=a.xlsx"], "--out a.xlsx: is written as CSV"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    words: list[str], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    exported(Path("pretrained"))
    for name in ("cells/a", "cells/b", "empty", "images"):
        Path(name).mkdir(parents=True)
    for name in ("cells/a/finetuned.safetensors", "cells/b/finetuned.safetensors", "images/x.jpg"):
        Path(name).touch()
    with pytest.raises(SystemExit) as ended:
        read_predict("", words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert answer in said
    assert said.count("\n") == 1


def test_labels_are_called_at_their_thresholds_and_numbers_stand_in_their_own_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_findings(tmp_path / "findings")
    write_ages(tmp_path / "ages")
    for name, kind in (("findings", "labels"), ("ages", "number")):
        config = replace(config_of(tmp_path), dataset=str(tmp_path / name), name=name, epochs=2)
        finetune(replace(config, out=str(tmp_path / "runs")))
        run_directory = tmp_path / "runs" / name
        out = tmp_path / f"{name}.csv"
        run(PredictConfig(run=str(run_directory), folder=str(tmp_path / name), out=str(out)))
        row = read_rows(run_directory)[0]
        expected, classes = read_test_split(run_directory / row["predictions"], kind)
        with out.open(newline="") as file:
            found = {line["path"]: line for line in csv.DictReader(file)}
        for key, values in zip(expected.keys, expected.probability_BY, strict=True):
            written = [float(found[key][name]) for name in classes]
            np.testing.assert_allclose(written, values, rtol=1e-5)
        if kind == "number":
            assert list(next(iter(found.values()))) == ["path", "age"]
            continue
        header, _ = read_header(run_directory / "finetuned.safetensors")
        for line in found.values():
            pairs = zip(classes, header["thresholds"], strict=True)
            called = [name for name, threshold in pairs if float(line[name]) >= threshold]
            assert line["class"] == "|".join(called)
        none = sum(not line["class"] for line in found.values())
        assert f"none of them  {none:6d}" in capsys.readouterr().out
