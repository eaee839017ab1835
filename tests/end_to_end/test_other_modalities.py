"""B-scans, which have no round field, through shards, copies, pre-training and fine-tuning."""

import csv
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskedclip.config import Config, FinetuneConfig, override
from maskedclip.data.captions import TEMPLATE, caption, wording_of
from maskedclip.data.labelled import labelled
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards
from maskedclip.data.transforms import decode as decode_stored
from maskedclip.evaluate.predicting import Benchmark, class_prompts
from maskedclip.finetune.loop import finetune
from maskedclip.metrics.results import read_rows
from maskedclip.models.checkpoints.files import read_header
from maskedclip.predict.classify import run as predict
from maskedclip.predict.command import PredictConfig
from maskedclip.pretrain.loop import pretrain
from maskedclip.shards.check import CheckRequest, check
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.make import ShardRequest, build
from tests.bscans import CARD, bscan, write_bscans
from tests.conftest import a_small_run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images/`, and the shards that are built of them."""
    root = tmp_path_factory.mktemp("bscans")
    card = write_bscans(root, {"train": 12, "val": 6, "test": 6})
    build(request(card, root / "images", root / "shards"), progress=False)
    return root


def request(card: Path, images: Path, out: Path) -> ShardRequest:
    return ShardRequest(dataset=str(card), root=images, out=out, size=192, workers=1)


def test_a_bscan_is_kept_whole_in_a_square(drawn: Path):
    shards = Shards(drawn / "shards")
    assert len(shards) == 24
    assert shards.manifest["field"] == "whole"
    for index in (0, 10, 20):
        metadata = shards.metadata(index)
        image_HWC = decode_stored(shards.read(index)[0])
        assert (metadata["width"], metadata["height"]) == (192, 124)
        assert image_HWC.shape == (192, 192, 3)
        original_HWC = cv2.imread(str(drawn / "images" / metadata["source"]))
        inside_HWC = image_HWC[34 : 34 + 124]
        assert np.abs(inside_HWC.astype(int) - original_HWC).mean() < 4  # of JPEG
        assert image_HWC[:30].max() < 12
        assert image_HWC[162:].max() < 12


def test_captions_are_of_the_cards_template_and_words(drawn: Path):
    shards = Shards(drawn / "shards")
    task = labelled(shards, "finding")
    texts = class_prompts(Benchmark(shards, task, division_of(shards, task)))
    assert texts[list(task.classes).index("drusen")] == [
        f"An optical coherence tomography B-scan of {words}"
        for words in ("drusen", "bumps of the pigment epithelium", "deposits beneath the retina")
    ]
    own = wording_of(shards.manifest)
    assert caption(["subretinal fluid"], None, own, draw=0.99).endswith(
        "a dark dome beneath the retina"
    )
    assert wording_of(shards.manifest, "A film of [CLS]").template == "A film of [CLS]"
    assert wording_of({}).template == TEMPLATE


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('field = "square"', "field 'square': round (it is cut out) or whole"),
        ('template = "A B-scan"', "template 'A B-scan' has no [CLS]"),
    ],
)
def test_a_card_that_says_neither_is_refused(wrong: str, message: str, tmp_path: Path):
    name = wrong.split(" ")[0]
    lines = [wrong if line.startswith(f"{name} = ") else line for line in CARD.splitlines()]
    (tmp_path / "wrong.toml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_card(str(tmp_path / "wrong.toml"))


@pytest.mark.slow
def test_a_copy_of_a_bscan_is_found_by_its_bytes(drawn: Path, tmp_path: Path):
    folder = tmp_path / "images" / "test" / "normal"
    folder.mkdir(parents=True)
    original = min((drawn / "images" / "train" / "normal").iterdir())
    shutil.copy(original, folder / "9001.png")
    assert cv2.imwrite(str(folder / "9002.png"), bscan(9002, "normal"))
    second = tmp_path / "second.toml"
    second.write_text(CARD.replace("drawn_bscans", "second"))
    build(request(second, tmp_path / "images", tmp_path / "shards"), progress=False)
    asked = CheckRequest(
        directories=(drawn / "shards",), against=(tmp_path / "shards",), out=tmp_path / "check",
        workers=1,
    )  # fmt: skip
    pairs = [pair for pair in check(asked, progress=False).pairs if pair.kind == "exact"]
    names = [{Path(one.sample.metadata.source).stem for one in pair[1:3]} for pair in pairs]
    assert names == [{original.stem, "9001"}]


@pytest.mark.slow
def test_bscans_are_pretrained_on_finetuned_on_and_predicted(
    drawn: Path, phantoms: dict[str, Path], tmp_path: Path
):
    shards = str(drawn / "shards")
    changes = {"data.paired": (shards,), "data.unpaired": (shards,), "optim.steps": 4}
    config: Config = override(a_small_run(phantoms, tmp_path), changes)
    run = pretrain(config)
    labelled_as = {"dataset": shards, "task": "finding", "threads": 0}
    rates = {"epochs": 3, "warmup_epochs": 1, "lr": 2e-3, "layer_decay": 1.0}
    places = {"weights": str(run), "out": str(tmp_path), "name": "tuned"}
    tuned = finetune(FinetuneConfig(**labelled_as, **rates, **places))
    assert {row["n"] for row in read_rows(tuned)} == {6}
    header, _ = read_header(tuned / "finetuned.safetensors")
    assert header["photographs"] == {"size": 192, "quality": 95, "whole": 1}
    images, out = str(drawn / "images" / "test"), str(tmp_path / "p.csv")
    table = predict(PredictConfig(run=str(tuned), folder=images, out=out, threads=0))
    given = {}
    for path in (tuned / "predictions").glob("*-test.csv"):
        with path.open() as stream:
            given |= {Path(row["source"]).name: row for row in csv.DictReader(stream)}
    with table.open() as stream:
        for row in csv.DictReader(stream):
            for name in ("normal", "drusen", "fluid"):
                stored = float(given[Path(row["path"]).name][name])
                assert float(row[name]) == pytest.approx(stored, abs=1e-6)
