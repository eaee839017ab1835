"""TensorBoard's projector shows the very features that probes are fitted on."""

import io
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from maskedclip.evaluate import projector
from maskedclip.evaluate.protocols import evaluate
from tests.colours import two_colours


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_colours(tmp_path_factory.mktemp("shards") / "colours")


def shown(colours: Path, out: Path, *, images: bool = False) -> ProjectorConfig:
    evaluate(
        "random", [(colours, "")], ("knn",), out, size="micro", image_size=32, threads=0,
        images=images,
    )  # fmt: skip
    text = (out / "projector_config.pbtxt").read_text()
    return text_format.Parse(text, ProjectorConfig())


def lines(out: Path, config: ProjectorConfig) -> list[list[str]]:
    text = (out / config.embeddings[0].metadata_path).read_text()
    return [line.split("\t") for line in text.splitlines()]


def files(out: Path) -> dict[str, tuple[bytes, int]]:
    paths = sorted((out / "projector").iterdir())
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_each_row_is_an_image_with_its_label_and_split_and_the_features_of_the_cache(
    colours: Path, tmp_path: Path
) -> None:
    config = shown(colours, tmp_path)
    (embedding,) = config.embeddings
    feature_BD = np.fromfile(tmp_path / embedding.tensor_path, "<f4")
    feature_BD = feature_BD.reshape([*embedding.tensor_shape])
    head, *rows = lines(tmp_path, config)
    assert head == ["label", "split", "id"]
    assert len(rows) == len(feature_BD) == 82  # two of 84 are damaged
    assert [row[1] for row in rows[:24]] == 23 * ["test"] + ["val"]
    assert all(row[0] == ("red", "green")[int(row[2][1:]) % 2] for row in rows)
    mean_YD = [
        feature_BD[[row[0] == name for row in rows]].mean(axis=0) for name in ("red", "green")
    ]
    assert np.abs(mean_YD[0] - mean_YD[1]).max() > 0.01  # rows and features belong together


def test_photographs_are_on_the_sheet_only_where_asked_for_or_allowed(
    colours: Path, tmp_path: Path
) -> None:
    assert not shown(colours, tmp_path / "a").embeddings[0].sprite.image_path
    config = shown(colours, tmp_path / "b", images=True)
    sprite = config.embeddings[0].sprite
    assert list(sprite.single_image_dim) == [projector.THUMBNAIL] * 2
    sheet = Image.open(io.BytesIO((tmp_path / "b" / sprite.image_path).read_bytes()))
    assert sheet.size == (10 * 48, 10 * 48)  # 82 images, ten in a row
    pixels = np.asarray(sheet)
    for number, row in enumerate(lines(tmp_path / "b", config)[1:]):
        y, x = (48 * at for at in divmod(number, 10))
        mean = pixels[y : y + 48, x : x + 48].mean(axis=(0, 1))
        assert ("red", "green")[int(mean.argmax())] == row[0]


def test_the_same_evaluation_again_writes_nothing(colours: Path, tmp_path: Path) -> None:
    shown(colours, tmp_path)
    before = files(tmp_path)
    shown(colours, tmp_path)
    assert files(tmp_path) == before
    assert len(list(tmp_path.glob("events.about.*.projector"))) == 1


def test_at_most_a_thousand_images_are_shown_those_of_the_test_split_first(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "MOST", 10)
    rows = lines(tmp_path, shown(colours, tmp_path))[1:]
    assert [row[1] for row in rows] == 10 * ["test"]
