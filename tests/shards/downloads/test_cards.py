import re
import tomllib
from pathlib import Path

import pytest

from maskedclip.data.captions import EXPERT
from maskedclip.shards.downloads.cards import CARDS, DatasetCard, card_names, read_card
from maskedclip.shards.downloads.records import read_dataset
from tests.downloads.drawing import draw, table

ROOT = Path(__file__).parents[3]
OF_THE_USER = ["csv", "folder", "phantom"]
PAIRED = ["airogs", "eyepacs", "odir5k"]
DOWNSTREAM = [
    "aptos2019", "glaucoma_fundus", "idrid", "jsiec", "messidor2", "origa", "retina", "rfmid",
]  # fmt: skip
UNPAIRED = [
    "acrima", "chaksu", "deepdrid", "drishti_gs", "fives", "grape", "hrf", "lag", "paraguay",
    "refuge", "stare", "sustech_sysu",
]  # fmt: skip
datasets = pytest.mark.parametrize("name", [n for n in card_names() if n not in OF_THE_USER])


def test_there_is_a_card_for_each_of_the_papers_22_datasets_and_rfmid() -> None:
    assert card_names() == sorted(OF_THE_USER + PAIRED + DOWNSTREAM + UNPAIRED)
    for names, role in ((PAIRED, "paired"), (DOWNSTREAM, "downstream"), (UNPAIRED, "unpaired")):
        assert [name for name in names if read_card(name).role != role] == []


@datasets
def test_a_card_says_what_a_user_needs(name: str) -> None:
    card = read_card(name)
    assert card.name == name
    assert card.title
    assert card.licence
    assert card.obtain
    assert card.marker
    assert card.images
    assert re.search(r"\b(19|20)\d\d\b", card.citation)


def words(card: DatasetCard) -> list[str]:
    return [word for classes in card.classes.values() for word in classes.values() if word]


OWN_WORDS = {
    "diabetic macular edema", "suspected glaucoma", "possible glaucoma", "early glaucoma",
    "advanced glaucoma", "retina disease", "vitreous particles", "chorioretinal atrophy-coloboma",
    "retinal artery occlusion", "suspected proliferative diabetic retinopathy", "myopia",
}  # fmt: skip


@datasets
def test_a_category_is_a_key_of_the_dictionary_or_a_known_word_of_the_dataset(name: str) -> None:
    card = read_card(name)
    assert set(words(card)) <= EXPERT.keys() | OWN_WORDS
    for task, classes in card.classes.items():
        assert set(card.values.get(task, {}).values()) <= classes.keys()


@datasets
def test_the_numbers_of_a_card_agree_with_one_another(name: str) -> None:
    card = read_card(name)
    assert card.expected
    for form in card.expected:
        assert form.keys() <= {"form", "images", "labelled", "splits", "labels"}
        assert sum(form.get("splits", {}).values()) in (0, form["images"])
        for task, counts in form.get("labels", {}).items():
            assert counts.keys() <= card.classes[task].keys()
            assert sum(counts.values()) == form.get("labelled", form["images"])


def test_a_misspelt_dataset_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown dataset 'eyepac'; did you mean eyepacs"):
        read_card("eyepac")
    with pytest.raises(ValueError, match=r"^clinic/scan\.tom: no such file"):
        read_card("clinic/scan.tom")
    with pytest.raises(ValueError, match="unknown dataset 'xyz'; use one of acrima, airogs"):
        read_card("xyz")


FACTS = "\n".join(
    f'{name} = "x"' for name in ("name", "title", "role", "licence", "citation", "obtain")
)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("foo = 1", "foo"),
        ("[[path]]\npatern = 'x'", "patern"),
        ("[[path]]\npattern = '('", "unterminated subpattern"),
        ("[[path]]\npattern = '(?P<grade>[0-4])'", r"no \[classes.grade\] for the task 'grade'"),
        ("[[table]]\nfile = 'x'\nimage = 'y'\nlabels = {a = 'z'}", r"no \[classes.a\]"),
        ("[[table]]\nfile = 'x'", "image"),
        ("= 1", "Invalid statement"),
        ("feild = 'whole'", "no key 'feild'; did you mean field?"),
        ("[[path]]\npattern = '(x'", r"the pattern '\(x': missing \)"),
    ],
)
def test_a_mistake_in_a_card_is_told_in_one_line(more: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FACTS)
    assert read_card(str(path)).title == "x"
    path.write_text(f"{FACTS}\n{more}\n")
    with pytest.raises(ValueError, match=rf"mine\.toml: .*{message}.*compare it") as raised:
        read_card(str(path))
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="no such card"):
        read_card(str(tmp_path / "none.toml"))


def example() -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (card,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    return str(card)


def test_the_example_of_contributing_is_a_card_that_reads_its_dataset(tmp_path: Path) -> None:
    path = tmp_path / "my_clinic.toml"
    path.write_text(example())
    assert tomllib.loads(example())["name"] == "my_clinic"
    root = tmp_path / "download"
    draw(root, "photographs/train/0012_OD.jpg", "photographs/test/0013_OS.JPG")
    draw(root, "photographs/train/0014_OD.jpg", "overlays/train/0012_OD.jpg")
    rows = [["File name", "DR grade"], ["0012_OD.jpg", 2], ["0013_OS.jpg", "none"]]
    table(root, "grades 2024.csv", *rows, ["0099_OD.jpg", 1], delimiter=";")
    found = read_dataset(read_card(str(path)), root)
    assert [record[2:5] for record in found.records] == [
        ("0013", "L", "test"), ("0012", "R", "train"), ("0014", "R", "train"),
    ]  # fmt: skip
    healthy, moderate, unlabelled = found.records
    assert healthy.labels == {"diabetic_retinopathy": "0"}
    assert healthy.categories == ("no diabetic retinopathy",)
    assert moderate.categories == ("moderate diabetic retinopathy",)
    assert unlabelled.labels == {}
    assert found.remarks == {
        "labels_without_image": ["0099_OD"],
        "images_without_label": ["photographs/train/0014_OD.jpg"],
        "left_out_folders": ["overlays: 1 images"],
    }


def test_the_cards_lie_where_the_readme_says() -> None:
    assert CARDS == ROOT / "maskedclip" / "shards" / "cards"
    assert "maskedclip/shards/cards/" in (ROOT / "shards" / "README.md").read_text()
