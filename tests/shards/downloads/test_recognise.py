from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import card_names, read_card
from maskedclip.shards.downloads.files import list_files
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv, read_folder
from maskedclip.shards.downloads.recognise import fits, known_datasets
from tests import downloads
from tests.downloads.drawing import draw, table

TWINS = {"aptos2019", "messidor2"}  # RETFound's folders are called the same in both


@pytest.mark.parametrize("form", downloads.FORMS)
def test_every_form_of_a_download_is_recognised_as_its_dataset_alone(
    form: str, tmp_path: Path
) -> None:
    downloads.build(form, tmp_path)
    name = downloads.FORMS[form]
    files = list_files(read_card(name), tmp_path)
    found = {other for other in card_names() if fits(read_card(other), tmp_path, files)}
    assert found in ({name}, TWINS if name in TWINS else {name})


def test_a_tree_that_hands_out_other_datasets_is_remarked_on(tmp_path: Path) -> None:
    draw(tmp_path, "SMDG-19/full-fundus/1.png", "mine/2.png")
    names = ["jsiec", "lag", "odir5k", "origa", "refuge"]
    found = read_folder(read_card("folder"), tmp_path, "").remarks["known_datasets"]
    assert found == [f"{name}: SMDG-19 is known to hold its images" for name in names]
    table(tmp_path, "t.csv", ["image"], ["2.png"])
    again = read_csv(read_card("csv"), tmp_path, tmp_path / "t.csv", Columns("image"))
    assert again.remarks["known_datasets"] == found
    downloads.build("jsiec", tmp_path / "more")
    files = list_files(read_card("folder"), tmp_path / "more")
    assert known_datasets(tmp_path / "more", files) == ["jsiec: its files are here"]
