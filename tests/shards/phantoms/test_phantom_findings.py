"""Phantoms with several labels an eye and a number: built, split, checked, left out by name."""

import json
from pathlib import Path

from maskedclip.data.labelled import divide, labelled
from maskedclip.data.splits import division_of
from maskedclip.data.storage.exclusions import Exclusion, write_exclusions
from maskedclip.data.storage.shards import Shards
from maskedclip.shards.checks.dataset import check_dataset
from maskedclip.shards.make import build
from maskedclip.shards.make_command import parse, report
from maskedclip.shards.phantoms.phantom import FINDINGS, draw, plan
from maskedclip.shards.splits_command import SplitsConfig, make_splits


def test_every_finding_of_a_phantom_is_a_label() -> None:
    for seed in (0, 1, 2, 5, 8):
        phantom = draw(seed, 32)
        named = phantom.findings.split("|") if phantom.findings else []
        assert set(named) == set(phantom.categories[1:]) <= set(FINDINGS)
        assert sorted(named, key=FINDINGS.index) == named
    assert {plan(seed).disease for seed in (0, 1, 2, 5, 8)} > {"normal"}


def test_phantoms_carry_labels_and_numbers_where_asked(tmp_path: Path) -> None:
    common = ["phantom", "--count=40", "--size=32", "--workers=1"]
    build(parse([*common, "--out", str(tmp_path / "plain")]), progress=False)
    plain = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert "kinds" not in plain
    assert "findings" not in plain["settings"]
    out = tmp_path / "kinds"
    said = report(build(parse([*common, "--findings", "--out", str(out)]), progress=False))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kinds"] == {"findings": "labels", "vertical_cup_to_disc": "number"}
    assert "vertical_cup_to_disc: 40 numbers, 0." in said
    assert "all as published" in said
    shards = Shards(out)
    task = labelled(shards, "findings")
    assert list(task.classes) == [name for name in FINDINGS if name in task.classes]
    assert labelled(shards).name == "diabetic_retinopathy"  # what it was before, unless asked
    for sample in task.samples[:3]:
        number = int(shards.metadata(sample.index)["source"].rpartition("/")[2])
        assert task.text(sample) == draw(number, 32).findings
    assert check_dataset(out, 1, lambda _: None).problems == []


def test_an_excluded_sample_leaves_the_splits_of_both_kinds(tmp_path: Path) -> None:
    out = tmp_path / "kinds"
    request = parse(["phantom", "--count=40", "--size=32", "--workers=1", "--findings", "--out",
                     str(out)])  # fmt: skip
    build(request, progress=False)
    shards = Shards(out)
    before = {
        name: division_of(shards, labelled(shards, name)) for name in shards.manifest["kinds"]
    }
    key = shards.key(0)
    write_exclusions(out, [Exclusion(key, "a copy", "other/x")])
    shards = Shards(out)
    for name, division in before.items():
        after = division_of(shards, labelled(shards, name))
        for part, samples in division.parts.items():
            assert [s.key for s in after.parts[part]] == [s.key for s in samples if s.key != key]
    assert check_dataset(out, 1, lambda _: None).problems == []
    assert len(make_splits(out, SplitsConfig(seed=2))) == 5
    task = labelled(shards, "findings")
    assert key not in {s.key for part in divide(task).values() for s in part}
