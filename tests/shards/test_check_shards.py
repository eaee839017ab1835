"""check_shards from the command line: what it says, writes and leaves out."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.stream import Source
from maskedclip.shards.building.prepare_sample import encode, perceptual_hash
from maskedclip.shards.check import CheckRequest
from maskedclip.shards.check_command import main, parse
from maskedclip.shards.phantoms.phantom import draw

EYES = [draw(number, 128).image_HWC for number in range(10)]


def write(directory: Path, rows: list[tuple[str, np.ndarray, str, str]]) -> Path:
    """Write samples of (key, image, split, grade); equal images are equal files."""
    with ShardWriter(directory, directory.name, samples_per_shard=4) as writer:
        for key, image_HWC, split, grade in rows:
            image_HWC = np.ascontiguousarray(image_HWC)
            facts = {
                "dataset": directory.name,
                "source": f"{key}.jpg",
                "split": split,
                "labels": {"grade": grade},
                "width": len(image_HWC),
                "height": len(image_HWC),
                "sha256": perceptual_hash(image_HWC) * 4,
                "phash": perceptual_hash(image_HWC),
            }
            writer.add(key, encode(image_HWC, 92), facts)
    return directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """`ours` has an equal file in two splits and a disagreeing turned copy; `theirs` a mirrored
    copy of one of ours."""
    rows = [(f"k{i}", EYES[i], "train", "0") for i in range(6)]
    rows += [("t1", EYES[1], "test", "1"), ("t7", EYES[7], "test", "0")]
    rows += [("turned", np.rot90(EYES[2]), "train", "1")]
    write(tmp_path / "ours", rows)
    write(tmp_path / "theirs", [("x", EYES[4][:, ::-1], "test", "0"), ("y", EYES[8], "test", "1")])
    return tmp_path


def run(place: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = 0
    try:
        main([*flags, f"--out={place / 'out'}", "--workers=1"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def rows(place: Path) -> list[dict[str, str]]:
    with (place / "out" / "pairs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_leaks_are_found_shown_and_dropped_and_then_there_are_none(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = str(place / "ours"), str(place / "theirs")
    code, out, _ = run(place, capsys, ours, "--against", theirs, "--json")
    assert code == 1
    numbers = json.loads(out.splitlines()[-1])
    assert numbers["pairs"]["exact"]["across splits"] == 1
    assert numbers["pairs"]["near"]["within a split"] == 1
    assert numbers["pairs"]["near"]["with --against"] == 1
    assert (numbers["to_drop"], numbers["problems"], numbers["clean"]) == (4, 0, False)
    assert "--drop leaves out 4 samples" in out
    assert "both samples go" in out
    found = {(row["key_a"], row["key_b"]): row for row in rows(place)}
    assert found["t1", "k1"]["kind"] == "exact"
    assert found["t1", "k1"]["labels_agree"] == "no"
    assert found["t1", "k1"]["drop"] == "ours/k1"
    assert found["k2", "turned"]["angle"].startswith(("90.", "89."))
    assert found["k2", "turned"]["drop"] == "ours/k2;ours/turned"
    assert found["k4", "x"]["mirrored"] == "yes"
    assert found["k4", "x"]["drop"] == "ours/k4"
    assert (place / "out" / "pairs.png").stat().st_size > 1000
    report = json.loads((place / "out" / "report.json").read_text())
    assert report["datasets"][ours]["labels"]["grade"]["1"] == {"test": 1, "train": 1}
    assert not (place / "ours" / "exclude.csv").exists()

    code, out, _ = run(place, capsys, ours, "--against", theirs, "--drop")
    assert code == 1
    assert "ours: 4 samples added to exclude.csv" in out
    kept = Shards(place / "ours")
    assert {kept.key(i) for i in kept.excluded} == {"k1", "k2", "turned", "k4"}
    assert len(Source("unpaired", [kept], 0, False)) == 5
    listed = (place / "ours" / "exclude.csv").read_text()
    assert "k4,near copy with --against,theirs/x" in listed
    assert not (place / "theirs" / "exclude.csv").exists()

    code, out, _ = run(place, capsys, ours, "--against", theirs)
    assert code == 0
    assert "4 excluded" in out


def test_a_list_that_is_there_is_added_to(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "ours" / "exclude.csv"
    path.write_text("key,reason,copy_of\nt7,blurred,\n")
    assert run(place, capsys, str(place / "ours"), "--drop")[0] == 1
    keys = [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]
    assert keys == ["k1", "k2", "t7", "turned"]
    assert "t7,blurred," in path.read_text()


def test_damage_is_listed_and_the_rest_is_checked_all_the_same(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "ours" / "ours-000001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    code, out, _ = run(place, capsys, str(place / "ours"), str(place / "theirs"))
    assert code == 1
    assert "DAMAGED ours-000001.tar" in out
    assert "build the damaged shards again" in out
    assert {(row["key_a"], row["key_b"]) for row in rows(place)} >= {("k2", "turned")}
    report = json.loads((place / "out" / "report.json").read_text())
    assert len(report["datasets"][str(place / "ours")]["problems"]) >= 5
    assert report["datasets"][str(place / "theirs")]["problems"] == []


def test_a_manifest_that_is_none_is_damage_and_no_reason_to_stop(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ("{", "[]", '{"format": 1, "name": "n", "shards": "x"}'):
        (place / "theirs" / "manifest.json").write_text(content)
        code, out, _ = run(place, capsys, str(place / "ours"), str(place / "theirs"))
        assert code == 1
        assert "theirs: 0 samples" in out
        assert "DAMAGED manifest.json" in out
        assert "t1" in {row["key_a"] for row in rows(place)}


def test_directories_behind_against_are_not_those_to_check() -> None:
    request = parse(["a", "b", "--against", "c", "d", "--drop", "--workers=3"])
    assert request == CheckRequest(
        directories=(Path("a"), Path("b")), against=(Path("c"), Path("d")), drop=True, workers=3
    )
    assert parse(["a", "--against=c"]).against == (Path("c"),)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--drop"], "no directory is named"),
        (["nowhere"], "nowhere: no such directory"),
        (["a", "--agains=b"], "unknown flag --agains; did you mean --against"),
        (["a", "--workers=many"], "'many' is not a whole number"),
        (["a", "--against"], "--against needs a value"),
        (["a", "--drop=maybe"], "it takes no value"),
        (["a", "--against", "./a"], "is named twice"),
        (["a", "--workers=9999"], "out of range"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert found in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from maskedclip.shards.check_command import main; main(['--help']);"
        "sys.exit(len({'torch', 'numpy', 'cv2', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--against" in done.stdout


def test_an_out_that_cannot_be_written_is_refused_before_samples_are_read(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "out").write_text("")
    code, _, err = run(place, capsys, str(place / "ours"))
    assert code == 2
    assert err == f"--out {place / 'out'}: {place / 'out'} is a file; choose another --out\n"
