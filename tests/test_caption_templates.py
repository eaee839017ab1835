"""Whose template words a caption: the run's, the card's, or that of fundus photographs."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import maskedclip
from maskedclip.config import Config, override
from maskedclip.data.captions import TEMPLATE, wording_of
from maskedclip.evaluate.features import FrozenEncoder
from maskedclip.pretrain.run_identity import learnt
from maskedclip.shards.make import ShardRequest, build
from maskedclip.shards.make_command import report
from maskedclip.weights.source_run import read_source
from maskedclip.weights.to_open_clip import usage_code
from tests.bscans import write_bscans
from tests.untrained import exported

BSCAN = "An optical coherence tomography B-scan of"


@pytest.fixture(scope="module")
def bscans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of B-scans, whose card has a template; the card is beside them."""
    root = tmp_path_factory.mktemp("bscans")
    card = write_bscans(root, {"train": 4, "val": 3, "test": 3})
    request = ShardRequest(
        dataset=str(card), root=root / "images", out=root / "shards", size=64, workers=1
    )
    build(request, progress=False)
    return root


def a_run(path: Path, config: Config) -> Path:
    exported(path)
    (path / "config.json").write_text(json.dumps(asdict(config)))
    return path


def test_a_template_that_is_given_is_what_all_get_the_usual_one_too():
    own = {"captions": {"template": f"{BSCAN} [CLS]"}}
    assert Config().data.caption_template == ""
    assert wording_of(own).template == f"{BSCAN} [CLS]"
    assert wording_of({}).template == TEMPLATE
    assert wording_of(own, TEMPLATE).template == TEMPLATE


def test_a_run_of_before_templates_could_be_empty_is_the_same_run():
    given = override(Config(), {"data.caption_template": TEMPLATE})
    assert learnt(given) == learnt(Config())
    other = override(Config(), {"data.caption_template": "An eye with [CLS]"})
    assert learnt(other) != learnt(Config())


def test_prompts_are_worded_as_the_captions_that_a_run_learnt_from(bscans: Path, tmp_path: Path):
    given = override(Config(), {"data.caption_template": "An eye with [CLS]"})
    carded = override(Config(), {"data.paired": (str(bscans / "shards"),)})
    moved = override(Config(), {"data.paired": ("shards/elsewhere_by_now",)})
    for name, config, words in (
        ("given", given, "An eye with"), ("carded", carded, BSCAN), ("moved", moved, None),
    ):  # fmt: skip
        run = a_run(tmp_path / name, config)
        start = words or "A fundus photograph of"
        assert maskedclip.load(run).prompts("glaucoma")[0] == f"{start} glaucoma"
        (code,) = [x for x in usage_code(read_source(run), tmp_path) if "text_row" in x]
        assert f"{start} glaucoma" in code
        # an evaluation asks a dataset's own words unless the run was given others
        assert FrozenEncoder(run).template == ("An eye with [CLS]" if name == "given" else "")
    exported(tmp_path / "alone")
    assert maskedclip.load(tmp_path / "alone").prompts("glaucoma")[0] == f"{TEMPLATE[:-5]}glaucoma"


def test_a_dataset_is_called_as_its_card_says_and_not_as_the_card_s_file(bscans: Path):
    (card,) = bscans.glob("*.toml")
    renamed = card.with_name("my card.toml")
    renamed.write_text(card.read_text())
    request = ShardRequest(dataset=str(renamed), root=bscans / "images")
    assert request.dataset_name == "drawn_bscans"
    assert request.directory == Path("shards/drawn_bscans")
    assert replace(request, name="other").dataset_name == "other"


def test_images_that_are_no_fundus_photographs_and_are_called_so_are_warned_of(
    bscans: Path, tmp_path: Path
):
    card = sorted(bscans.glob("*.toml"))[0]
    lines = [line for line in card.read_text().splitlines() if not line.startswith("template")]
    (tmp_path / "bare.toml").write_text("\n".join(lines))
    said = []
    for path, name in ((card, "worded"), (tmp_path / "bare.toml", "bare")):
        request = ShardRequest(
            dataset=str(path), root=bscans / "images", out=tmp_path / name, size=64, workers=1
        )
        said.append(report(build(request, progress=False)))
    assert ["call these images fundus photographs" in text for text in said] == [False, True]
