"""From a check to splits that part no copy: near copies differ by the quality of their JPEG."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from maskedclip.shards.check_command import main as check
from maskedclip.shards.make_command import main as build
from maskedclip.shards.phantoms.phantom import draw
from maskedclip.shards.splits_command import main as divide


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 12 phantoms of two classes, half of them stored again at a lower quality."""
    folder = tmp_path_factory.mktemp("copies")
    for number in range(12):
        image = Image.fromarray(draw(2 * number, 128).image_HWC)
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        image.save(place / f"x{number}.jpg", quality=95)
        if number < 6:
            image.save(place / f"y{number}.jpg", quality=80)
    return folder


def run(command: Callable[[list[str]], None], *words: object) -> None:
    with suppress(SystemExit):  # exit code 1: a check found copies
        command(list(map(str, words)))


def parts(directory: Path) -> dict[str, str]:
    rows = (directory / "splits" / "g.csv").read_text().splitlines()[1:]
    return {row.split(",")[0]: row.split(",")[2] for row in rows}


def test_the_printed_command_divides_so_that_no_copy_is_apart(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, out = tmp_path / "own", tmp_path / "check"
    words = ["folder", f"--root={root}", "--classes=g", f"--out={own}", "--name=own"]
    build([*words, "--size=128", "--workers=1"])
    run(check, own, f"--out={out}", "--workers=1")
    printed = capsys.readouterr().out
    found = [row.split(",") for row in (out / "pairs.csv").read_text().splitlines()]
    one, other = found[0].index("key_a"), found[0].index("key_b")
    pairs = [(row[one], row[other]) for row in found[1:]]
    assert len(pairs) == 6
    said = "exit code 1: 0 damaged, 6 pairs of copies, 0 pairs of a patient in two splits"
    assert printed.splitlines()[-1] == said
    apart = sum(parts(own)[a] != parts(own)[b] for a, b in pairs)
    assert apart > 0
    assert f"{own / 'splits' / 'g.csv'}: {apart} pairs stand in two parts (near {apart})" in printed
    command = f"python tools/make_splits.py {own} --pairs={out / 'pairs.csv'}"
    assert f"next: {command}\n" in printed
    divide(command.split()[2:])
    assert f"{own / 'together.csv'}: 6 pairs stay in one part (near 6)" in capsys.readouterr().out
    assert [pair for pair in pairs if parts(own)[pair[0]] != parts(own)[pair[1]]] == []
    run(check, own, f"--out={out}", "--workers=1")
    printed = capsys.readouterr().out
    assert "stand in two parts" not in printed
    assert "DAMAGED" not in printed
    with pytest.raises(SystemExit):
        divide([str(own), f"--pairs={tmp_path / 'none.csv'}"])
    assert "none.csv: no such file; give pairs.csv of check_shards" in capsys.readouterr().err


def test_pairs_of_another_dataset_are_refused_and_erase_none(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check"
    for name in ("own", "other"):
        words = ["folder", f"--root={root}", "--classes=g", f"--out={tmp_path / name}"]
        build([*words, f"--name={name}", "--size=128", "--workers=1"])
    own, other = tmp_path / "own", tmp_path / "other"
    run(check, own, f"--out={out}", "--workers=1")
    divide([str(own), f"--pairs={out / 'pairs.csv'}"])
    kept = (own / "together.csv").read_bytes()
    capsys.readouterr()
    for words in ([other], [other, f"--against={own}"]):
        run(check, *words, f"--out={out}", "--workers=1")
        with pytest.raises(SystemExit) as ended:
            divide([str(own), f"--pairs={out / 'pairs.csv'}"])
        assert ended.value.code == 2
        said = f"pairs.csv: is of {other}, not of {own}; check that again: python tools/check_shar"
        assert said in capsys.readouterr().err
        assert (own / "together.csv").read_bytes() == kept
    (out / "report.json").write_text("[]")
    with pytest.raises(SystemExit):
        divide([str(own), f"--pairs={out / 'pairs.csv'}"])
    assert "report.json: no report of check_shards; check again: python" in capsys.readouterr().err
    (out / "report.json").unlink()
    (out / "pairs.csv").write_text((out / "pairs.csv").read_text().partition("\n")[0] + "\n")
    with pytest.raises(SystemExit):
        divide([str(own), f"--pairs={out / 'pairs.csv'}"])
    assert "names no sample of" in capsys.readouterr().err


def test_a_published_split_is_kept_said_and_can_lose_the_training_side(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in root.rglob("*.jpg"):
        split = "test" if file.name.startswith("y") else "train"
        place = tmp_path / "tree" / split / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        (place / file.name).symlink_to(file)
    own, out = tmp_path / "own", tmp_path / "check"
    words = ["folder", f"--root={tmp_path / 'tree'}", "--classes=g", f"--out={own}", "--name=own"]
    build([*words, "--size=128", "--workers=1"])
    before = parts(own)
    run(check, own, f"--out={out}", "--workers=1")
    printed = capsys.readouterr().out
    assert "6 pairs stand in two parts (near 6)" in printed
    assert "6 of them by the published split, which is kept" in printed
    assert "make_splits" not in printed
    divide([str(own), f"--pairs={out / 'pairs.csv'}"])
    assert "the published split is kept and parts 6 of these pairs" in capsys.readouterr().out
    tested = {key for key, part in before.items() if part == "test"}
    assert {key for key, part in parts(own).items() if part == "test"} == tested
    run(check, own, f"--out={out}", "--workers=1", "--drop", "--drop_unclear")
    assert f"{own}: 6 samples added to exclude.csv" in capsys.readouterr().out
    run(check, own, f"--out={out}", "--workers=1")
    assert "stand in two parts" not in capsys.readouterr().out
