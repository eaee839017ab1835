"""TensorBoard's texts say what a run is, once, through any number of starts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.config import Config, DataConfig, override
from maskedclip.data.licences import may_be_shown
from maskedclip.data.source import Source
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.pretrain.about_run import first_captions, uses_of
from maskedclip.pretrain.loop import pretrain
from maskedclip.shards.downloads.cards import read_card


def texts(run: Path) -> dict[str, str]:
    """Return each text of a run; one event each."""
    events = EventAccumulator(str(run)).Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        if tag.startswith("about/"):
            (event,) = events.Tensors(tag)
            found[tag.removeprefix("about/")] = event.tensor_proto.string_val[0].decode()
    return found


def test_a_run_of_two_starts_has_each_text_once_and_both_starts(small: Config) -> None:
    run = pretrain(override(small, {"optim.steps": 3}))
    first = texts(run)
    (path,) = run.glob("events.about.*")
    config = json.loads((run / "config.json").read_text())
    (run / "provenance.json").write_text(
        json.dumps(2 * json.loads((run / "provenance.json").read_text()))
    )
    pretrain(override(small, {"optim.steps": 3}))
    second = texts(run)
    assert set(first) == set(second) == {"config", "starts", "datasets", "captions"}
    assert f"| optim.betas | {config['optim']['betas']} |" in first["config"]
    assert "| paired | paired | 24 | not stated | not stated |" in first["datasets"]
    assert first["captions"].count("A fundus photograph of") >= 8
    assert [text.count("\n| ") for text in (first["starts"], second["starts"])] == [2, 4]
    assert not path.exists()


def test_a_report_is_shown_only_where_its_licence_lets_anyone_show_it(
    small: Config, tmp_path: Path
) -> None:
    directory = tmp_path / "reports"
    with ShardWriter(directory, "reports") as writer:
        facts = {"categories": ["glaucoma"], "report": "Mrs X has glaucoma", "split": "train"}
        writer.add("a", b"jpeg", facts | {"width": 8, "height": 8})
    source = Source("paired", [Shards(directory)], seed=0, captioned=True)
    assert "Mrs X" not in str(first_captions(source, small.data))
    source.datasets[0].manifest["licence"] = "CC BY 4.0"
    assert "Mrs X" in str(first_captions(source, small.data))
    by_category = replace(small.data, caption_from="categories")
    assert "A fundus photograph of glaucoma" in str(first_captions(source, by_category))


@pytest.mark.parametrize(
    ("name", "shown"),
    [("phantom", True), ("idrid", True), ("odir5k", False), ("eyepacs", False), ("folder", False)],
)
def test_cards_say_whose_photographs_may_be_shown(name: str, shown: bool) -> None:
    assert may_be_shown({"licence": read_card(name).licence}) is shown


def test_a_dataset_that_is_both_sources_is_said_to_be_both() -> None:
    data = DataConfig(paired=("shards/a", "shards/b"), unpaired=("shards/b", "shards/c"))
    assert uses_of(data) == {
        "shards/a": "paired", "shards/b": "paired and unpaired", "shards/c": "unpaired",
    }  # fmt: skip


def test_a_source_of_which_a_step_has_no_image_is_no_data_of_the_run() -> None:
    data = DataConfig(paired=("shards/a",), unpaired=("shards/a", "shards/c"), unpaired_batch=0)
    assert uses_of(data) == {"shards/a": "paired"}
