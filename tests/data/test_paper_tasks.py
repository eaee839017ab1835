"""The paper's seven tasks are those of the cards of make_shards."""

from pathlib import Path

import pytest

from maskedclip.data.paper_tasks import PAPER, TaskCard, chosen, make_command, present
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.make_command import parse


def test_the_seven_columns_are_in_the_papers_order() -> None:
    names = ["APTOS", "IDRiD", "MESSIDOR-2", "GF", "ORIGA", "JSIEC", "Retina"]
    assert [card.name for card in PAPER] == names


@pytest.mark.parametrize("card", PAPER, ids=lambda card: card.name)
def test_a_task_card_and_the_card_of_its_shards_say_the_same(card: TaskCard) -> None:
    shards = read_card(card.shards)
    assert shards.role == "downstream"
    assert len(shards.classes[card.task]) == card.classes
    for form in shards.expected:
        assert set(form["labels"][card.task]) == set(shards.classes[card.task])
    released = [form for form in shards.expected if form["form"] == "RETFound"]
    assert bool(released) == (card.name != "ORIGA")
    assert "RETFound's release" in card.split or card.name == "IDRiD"
    published = any({"train", "test"} <= set(form.get("splits", ())) for form in shards.expected
                    if form["form"] == "B. Disease Grading")  # fmt: skip
    assert published == ("published test set" in card.split)


@pytest.mark.parametrize("card", PAPER, ids=lambda card: card.name)
def test_the_command_that_makes_the_shards_is_one_that_make_shards_takes(card: TaskCard) -> None:
    words = make_command(card, Path("shards")).split()
    assert words[:2] == ["python", "tools/make_shards.py"]
    assert parse(words[2:]).directory == Path("shards") / card.shards


def finished(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").touch()


def test_paper_stands_for_those_that_are_there_and_names_those_that_are_not(tmp_path: Path) -> None:
    finished(tmp_path, "retina", "idrid")
    (tmp_path / "origa").mkdir()  # not finished: it has no manifest
    there, missing = present(tmp_path)
    assert [card.name for card in there] == ["IDRiD", "Retina"]
    assert len(missing) == 5
    found, lines = chosen(["paper", "elsewhere/own"], "grade", tmp_path)
    assert found == [
        (tmp_path / "idrid", "diabetic_retinopathy"),
        (tmp_path / "retina", "disease"),
        (Path("elsewhere/own"), "grade"),
    ]
    assert [line.split()[0] for line in lines] == ["APTOS", "MESSIDOR-2", "GF", "ORIGA", "JSIEC"]
    assert all("tools/make_shards.py" in line for line in lines)


def test_a_folder_with_none_of_the_seven_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the paper's datasets.*make_shards.py aptos2019"):
        chosen(["paper"], "", tmp_path)
