from maskedclip.shards.building.build import compared

FORMS = [
    {"form": "whole", "images": 100, "splits": {"train": 80, "test": 20}},
    {"form": "train alone", "images": 80, "labels": {"grade": {"0": 50, "1": 30}}},
]


def found(images: int, splits: dict[str, int], **labels: dict[str, int]) -> dict[str, object]:
    return {"images": images, "splits": splits, "labels": labels}


def test_a_whole_download_differs_in_nothing() -> None:
    assert compared(FORMS, found(100, {"train": 80, "test": 20})) == {
        "form": "whole",
        "differences": [],
    }


def test_the_nearest_form_is_the_measure() -> None:
    there = compared(FORMS, found(80, {"train": 80}, grade={"0": 50, "1": 30}))
    assert there == {"form": "train alone", "differences": []}


def test_half_a_download_is_told_by_every_number_that_differs() -> None:
    there = compared(FORMS, found(60, {"train": 60}, grade={"0": 50, "1": 10}))
    assert there["differences"] == ["images: 60 of 80", "grade: 1 10 of 30"]
    there = compared(FORMS, found(1100, {"train": 1100}))
    assert there["differences"] == [
        "images: 1,100 of 100",
        "splits: train 1,100 of 80, test 0 of 20",
    ]


def test_images_that_lost_their_labels_are_missed_too() -> None:
    form = {"form": "whole", "images": 3, "labelled": 2}
    there = compared([form], found(3, {}) | {"labelled": 1})
    assert there["differences"] == ["labelled: 1 of 2"]


def test_where_nothing_was_published_nothing_is_missed() -> None:
    assert compared([], found(3, {})) == {}
