"""What classes are called in captions: by their names, or as a user's file says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from maskedclip.data.labelled import labelled
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.predicting import Benchmark, class_prompts
from maskedclip.shards.downloads.class_words import (
    read_class_words,
    unused_words,
    words_of_class,
    words_of_classes,
)
from maskedclip.shards.make import ShardRequest, build
from maskedclip.shards.make_command import report
from tests.downloads.drawing import draw, write


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("No DR", "no diabetic retinopathy"),
        ("No_DR", "no diabetic retinopathy"),
        ("0_NoDR", "no diabetic retinopathy"),
        ("Healthy", "normal"),
        ("Healthy [Color Fundus]", "normal"),
        ("RP", "retinitis pigmentosa"),
        ("3. BRVO", "branch retinal vein occlusion"),
        ("MildDR", "mild diabetic retinopathy"),
        ("Proliferate_DR", "proliferative diabetic retinopathy"),
        ("Non-glaucoma", "no glaucoma"),
        ("Age-related Macular Degeneration (AMD)", "age related macular degeneration"),
        ("SCAR", "scar"),
        ("dry AMD", "age related macular degeneration"),
        ("star fruit disease", "star fruit disease"),
    ],
)
def test_a_name_says_a_category(name: str, words: str) -> None:
    assert words_of_class(name) == (words,)


@pytest.mark.parametrize(
    "name",
    ["3", "MH", "TSLN", "ODC", "Mild", "Severe", "early", "\u6b63\u5e38", "\u6b63\u5e38 eye", "NaN",
     "unknown", "yes", "Positive", "none", "Class 0", "class_1", "Grade 2", "Type B"],
)  # fmt: skip
def test_a_name_that_says_nothing_for_certain_gives_no_caption(name: str) -> None:
    assert words_of_class(name) == ()


def test_bare_grades_are_of_the_disease_that_another_class_or_the_task_names() -> None:
    names = ["0_No_DR", "1_Mild", "2_Moderate", "3_Severe", "4_Proliferate_DR"]
    assert [words[0] for words in words_of_classes(names, "grade").values()] == [
        f"{grade} diabetic retinopathy"
        for grade in ("no", "mild", "moderate", "severe", "proliferative")
    ]
    assert words_of_classes(["none", "mild"], "diabetic_retinopathy") == {
        "none": ("no diabetic retinopathy",),
        "mild": ("mild diabetic retinopathy",),
    }
    assert words_of_classes(["normal", "mild"], "glaucoma") == {"normal": ("normal",), "mild": ()}


def test_words_of_a_file_come_first_whatever_the_case(tmp_path: Path) -> None:
    table = write(tmp_path, "w.csv", "Class;Words\nrp;a retina of rods, cataract\nMH;\n;normal\n")
    toml = write(
        tmp_path, "w.toml", 'rp = ["a retina of rods", "cataract"]\nMH = ""\n"" = "normal"'
    )
    for file in (table, toml):
        assert words_of_classes(["RP", "MH", "DR"], "t", read_class_words(file)) == {
            "RP": ("a retina of rods", "cataract"),
            "MH": (),
            "DR": ("diabetic retinopathy",),
            "": ("normal",),
        }
    assert unused_words({"drusn": "x", "RP": "y"}, ["Drusen", "rp"]) == {
        "drusn (did you mean Drusen?)"
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("w.csv", "name,words\na,b\n", "no column class; it has name, words; write the columns"),
        ("w.csv", "class,words\na,b\na,c\n", "the class 'a' stands there twice"),
        ("w.toml", "No DR = 1", "write lines such as"),
        ("w.toml", "a = 1", "a is no text"),
    ],
)
def test_a_file_of_no_words_is_refused_in_one_line(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words) as said:
        read_class_words(write(tmp_path, name, text))
    assert "\n" not in str(said.value)
    with pytest.raises(ValueError, match="no such file"):
        read_class_words(tmp_path / "none.csv")


def test_a_build_says_what_each_class_is_called_and_which_have_no_caption(tmp_path: Path) -> None:
    draw(tmp_path / "tree", *(f"{c}/{n}.png" for c in ("No DR", "XLRS", "3") for n in range(4)))
    words = write(tmp_path, "words.csv", "class,words\nXLRS,retinoschisis\n3,\n")
    said, manifests = [], []
    for out, file in (("without", None), ("with", words)):
        request = ShardRequest(
            dataset="folder", root=tmp_path / "tree", out=tmp_path / out, classes="t",
            class_words=file, workers=1, size=32,
        )  # fmt: skip
        said.append(report(build(request, progress=False)).splitlines())
        manifests.append(json.loads((tmp_path / out / "manifest.json").read_text()))
    assert "    No DR -> no diabetic retinopathy (4 images)" in said[0]
    assert "    XLRS -> NO CAPTION (4 images)" in said[0]
    (advice,) = [line for line in said[0] if line.startswith("no caption for 2 of these classes")]
    assert "8 images cannot be paired; --class_words=FILE" in advice
    assert "'3', 'XLRS'" in advice
    assert "    XLRS -> retinoschisis (4 images)" in said[1]
    assert "class_words" not in manifests[0]
    assert manifests[0]["classes"]["t"] == ["3", "No DR", "XLRS"]
    assert manifests[1]["classes"]["t"] == {
        "3": "3", "No DR": "no diabetic retinopathy", "XLRS": "retinoschisis",
    }  # fmt: skip
    shards = Shards(tmp_path / "with")
    found = {tuple(shards.metadata(i)["categories"]) for i in range(len(shards))}
    assert found == {(), ("no diabetic retinopathy",), ("retinoschisis",)}


def test_a_build_says_what_zero_shot_takes_grades_for_that_have_no_caption(tmp_path: Path) -> None:
    draw(tmp_path / "tree", *(f"{c}/{n}.png" for c in "01234" for n in range(6)))
    words = write(tmp_path, "words.csv", "class,words\n3,severe\n")
    request = ShardRequest(
        dataset="folder", root=tmp_path / "tree", out=tmp_path / "out", workers=1, size=32,
        classes="diabetic_retinopathy",
    )  # fmt: skip
    said = report(build(request, progress=False))
    shards = Shards(tmp_path / "out")
    task = labelled(shards, "diabetic_retinopathy")
    prompts = class_prompts(Benchmark(shards, task, division_of(shards, task)))
    for name, (caption, *_) in zip(task.classes, prompts, strict=True):
        called = caption.removeprefix("A fundus photograph of ")
        assert f"    {name} -> NO CAPTION (6 images); zero-shot takes it for {called!r}" in said
    assert "captions of pre-training need words that are stated" in said

    stated = replace(request, out=tmp_path / "stated", class_words=words)
    said = report(build(stated, progress=False))
    assert "    3 -> severe (6 images)\n" in said
    assert "    4 -> NO CAPTION (6 images)\n" in said  # a file that leaves a class out says so
    assert "zero-shot" not in said


@pytest.mark.parametrize(
    ("folders", "order", "line"),
    [
        (
            ("0", "1", "2", "other"),
            (),
            "no known order of grades: no quadratic kappa; --classes_order, or --exclude a folder "
            "that is no grade",
        ),
        (("severe", "none", "mild"), (), "classes taken as grades in this order: none, mild, "
         "severe"),
        (("x", "y", "z"), ("z", "x", "y"), "classes taken as grades in this order: z, x, y"),
        (("ill", "healthy"), (), ""),
    ],
)  # fmt: skip
def test_a_build_says_once_whether_the_classes_of_a_task_are_grades(
    folders: tuple[str, ...], order: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    draw(tmp_path / "tree", *(f"{c}/{n}.png" for c in folders for n in range(2)))
    request = ShardRequest(
        dataset="folder", root=tmp_path / "tree", out=tmp_path / "out", classes="t",
        classes_order=order, workers=1, size=32,
    )  # fmt: skip
    said = report(build(request, progress=False)).splitlines()
    assert [one for one in said if "grade" in one] == ([f"t: {line}"] if line else [])
