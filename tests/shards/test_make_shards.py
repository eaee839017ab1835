import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from maskedclip.data.captions import Wording, captions
from maskedclip.data.labelled import labelled
from maskedclip.data.splits import read_split
from maskedclip.data.storage.shards import Shards
from maskedclip.shards.building import build as building
from maskedclip.shards.building.build import locked
from maskedclip.shards.downloads.cards import CARDS
from maskedclip.shards.make import ShardRequest, build
from maskedclip.shards.make_command import main, parse
from maskedclip.shards.phantoms.phantom import draw

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a download of 20 phantoms: a doubled file, an empty one, a cut one, a text."""
    folder = tmp_path_factory.mktemp("download")
    for number in range(20):
        place = folder / ("train" if number < 14 else "test") / ("cataract", "normal")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number, 96).image_HWC).save(place / f"{number:02d}.jpg", quality=95)
    normal = folder / "train" / "normal"
    shutil.copy(normal / "01.jpg", normal / "copy.jpg")
    (normal / "empty.jpg").write_bytes(b"")
    (normal / "text.png").write_text("not found")
    content = (normal / "03.jpg").read_bytes()
    (normal / "cut.jpg").write_bytes(content[: len(content) // 2])
    return folder


def request(root: Path, out: Path, **changes: Any) -> ShardRequest:
    settings: dict[str, Any] = {
        "classes": "disease",
        "size": 64,
        "workers": 1,
        "samples_per_shard": 6,
    }
    return ShardRequest(dataset="folder", root=root, out=out, name="toy", **{**settings, **changes})


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_dataset_is_built_with_all_that_the_contract_asks(root: Path, tmp_path: Path) -> None:
    summary = build(request(root, tmp_path / "toy"), progress=False)
    shards = Shards(tmp_path / "toy")
    assert summary.built
    assert len(shards) == 21
    seen = {}
    for number in range(len(shards)):
        content, metadata = shards.read(number)
        assert simplejpeg.decode_jpeg(content).shape == (64, 64, 3)
        assert list(metadata) == [
            "dataset", "source", "patient", "eye", "split", "labels", "categories", "report",
            "width", "height", "sha256", "phash",
        ]  # fmt: skip
        assert set(shards.key(number)) <= set("0123456789abcdef")
        seen[metadata["source"]] = metadata
    one = seen["train/cataract/00.jpg"]
    assert (one["dataset"], one["split"], one["width"], one["height"]) == ("toy", "train", 96, 96)
    assert (one["labels"], one["categories"]) == ({"disease": "cataract"}, ["cataract"])
    assert "A fundus photograph of cataract" in dict(summary.captions)["test/cataract/14.jpg"]


def test_the_manifest_counts_and_names_every_file(root: Path, tmp_path: Path) -> None:
    manifest = build(request(root, tmp_path / "toy"), progress=False).manifest
    rejected = {entry["source"]: entry["reason"] for entry in manifest["rejected"]}
    assert rejected.pop("train/normal/cut.jpg").startswith("does not decode")
    assert rejected == {
        "train/normal/empty.jpg": "the file is empty",
        "train/normal/text.png": "not an image of a known format",
    }
    assert manifest["duplicates"] == [["train/normal/01.jpg", "train/normal/copy.jpg"]]
    assert manifest["counts"]["splits"] == {"test": 6, "train": 15}
    assert manifest["counts"]["labels"] == {"disease": {"cataract": 10, "normal": 11}}
    assert manifest["classes"] == {"disease": ["cataract", "normal"]}
    assert manifest["licence"]
    assert str(root) not in json.dumps(manifest)


def test_the_bytes_do_not_depend_on_the_workers(root: Path, tmp_path: Path) -> None:
    build(request(root, tmp_path / "one", workers=1), progress=False)
    build(request(root, tmp_path / "two", workers=2), progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next build stop when it has written three shards and noted two of them."""
    write, count = building._write_json, iter(range(100))

    def stop_once(path: Path, content: dict[str, object]) -> None:
        if next(count) == 3:  # the request, two shards, and then
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(building, "_write_json", stop_once)


@pytest.mark.usefixtures("interrupted")
def test_a_build_that_was_stopped_ends_as_one_that_was_not(root: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(request(root, tmp_path / "toy"), progress=False)
    with pytest.raises(ValueError, match="not finished"):
        Shards(tmp_path / "toy")
    kept = (tmp_path / "toy" / "toy-000000.tar").stat().st_mtime_ns
    build(request(root, tmp_path / "toy"), progress=False)
    build(request(root, tmp_path / "whole"), progress=False)
    assert contents(tmp_path / "toy") == contents(tmp_path / "whole")
    assert (tmp_path / "toy" / "toy-000000.tar").stat().st_mtime_ns == kept


@pytest.mark.usefixtures("interrupted")
def test_a_shard_damaged_while_the_build_was_down_is_written_again(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(request(root, tmp_path / "toy"), progress=False)
    (tmp_path / "toy" / "toy-000000.tar").write_bytes(b"cut")
    build(request(root, tmp_path / "toy"), progress=False)
    assert len([Shards(tmp_path / "toy").read(number) for number in range(21)]) == 21


@pytest.mark.usefixtures("interrupted")
def test_an_unfinished_build_of_another_request_is_not_touched(root: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(request(root, tmp_path / "toy"), progress=False)
    before = sorted(path.name for path in (tmp_path / "toy").iterdir())
    with pytest.raises(ValueError, match="unfinished build of another request"):
        build(request(root, tmp_path / "toy", size=48), progress=False)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == before


def test_a_killed_command_goes_on_and_leaves_no_process_behind(tmp_path: Path) -> None:
    out = tmp_path / "phantoms"
    command = [
        sys.executable, "tools/make_shards.py", "phantom", "--count", "90", "--size", "128",
        "--samples_per_shard", "10", "--workers", "2", "--out", str(out),
    ]  # fmt: skip
    running = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while not (out / "phantom-000001.tar").is_file() and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # the group is empty when the last worker has ended
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        os.killpg(running.pid, signal.SIGKILL)
        pytest.fail("workers outlived the command")
    assert not (out / "manifest.json").exists()
    again = ShardRequest(
        dataset="phantom", count=90, size=128, samples_per_shard=10, workers=1, out=out
    )
    build(again, progress=False)
    shards = Shards(out)
    assert len({shards.key(number) for number in range(90)}) == 90
    assert not list(out.glob(".*"))


def test_the_same_request_again_does_nothing(root: Path, tmp_path: Path) -> None:
    build(request(root, tmp_path / "toy"), progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "toy").iterdir()}
    assert not build(request(root, tmp_path / "toy", workers=2), progress=False).built
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "toy").iterdir()} == before


def test_another_request_does_not_replace_a_dataset(root: Path, tmp_path: Path) -> None:
    build(request(root, tmp_path / "toy"), progress=False)
    with pytest.raises(ValueError, match="another request or of other files; remove it"):
        build(request(root, tmp_path / "toy", size=48), progress=False)


def test_a_directory_of_something_else_is_not_written_to(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no dataset"):
        build(request(root, tmp_path), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_builds_do_not_write_to_one_directory(root: Path, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    with (
        locked(tmp_path / "toy"),
        pytest.raises(RuntimeError, match="another build is writing"),
    ):
        build(request(root, tmp_path / "toy"), progress=False)


def test_a_dataset_of_nothing_but_bad_files_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "eye.jpg").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"the first, eye\.jpg: the file is empty"):
        build(request(tmp_path / "download", tmp_path / "toy", classes=""), progress=False)
    assert not (tmp_path / "toy").exists()


def test_a_disk_that_is_full_costs_one_line_and_nothing_done(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["folder", f"--root={root}", f"--out={tmp_path / 'toy'}", "--workers=1"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert "toy-000000.tar: File too large" in error
    assert "run the same command again" in error
    assert not list((tmp_path / "toy").glob("*.tar*"))
    main(arguments)
    assert len(Shards(tmp_path / "toy")) == 21


def test_an_output_that_cannot_be_made_costs_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit) as ended:
        main(["folder", f"--root={root}", f"--out={tmp_path / 'file' / 'toy'}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_with_anonymise_no_name_of_a_file_is_left(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards" / "toy"
    build(request(root, out, anonymise=True), progress=False)
    assert (tmp_path / "shards" / ".maskedclip_key").stat().st_mode & 0o777 == 0o600
    text = b"".join(contents(out).values())
    assert b"empty.jpg" not in text
    assert b"/01.jpg" not in text  # a key may end in 01 by chance, but has no slash
    again = tmp_path / "shards" / "again"
    build(request(root, again, anonymise=True), progress=False)
    assert contents(again) == contents(out)
    build(request(root, tmp_path / "plain"), progress=False)
    assert Shards(tmp_path / "plain").key(0) != Shards(out).key(0)


def test_a_key_that_is_missing_or_short_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short")
    with pytest.raises(ValueError, match="5 bytes are too few"):
        build(request(root, tmp_path / "toy", key_file=tmp_path / "key"), progress=False)
    with pytest.raises(ValueError, match="no such file"):
        build(request(root, tmp_path / "toy", key_file=tmp_path / "none"), progress=False)
    assert not (tmp_path / "toy").exists()


def test_phantoms_are_drawn_and_a_patient_is_in_one_split(tmp_path: Path) -> None:
    chosen = ShardRequest(
        dataset="phantom", count=40, seed=4, size=64, workers=1, out=tmp_path / "p"
    )
    build(chosen, progress=False)
    shards = Shards(tmp_path / "p")
    samples = [shards.metadata(number) for number in range(40)]
    assert {sample["split"] for sample in samples} == {"train", "val", "test"}
    assert len({(sample["patient"], sample["split"]) for sample in samples}) == 20
    by_source = {sample["source"]: number for number, sample in enumerate(samples)}
    content, metadata = shards.read(by_source["phantom/000000007"])
    phantom = draw(7, 64)
    assert (metadata["labels"], tuple(metadata["categories"])) == (
        phantom.labels,
        phantom.categories,
    )
    assert np.abs(simplejpeg.decode_jpeg(content).astype(int) - phantom.image_HWC).mean() < 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eyepac", "--root=x"], "unknown dataset 'eyepac'; did you mean eyepacs?"),
        (["eyepacs", "--rot=x"], "unknown flag --rot; did you mean --root?"),
        (["eyepacs", "--root=x", "--zzz=1"], "unknown flag --zzz; see --help"),
        (["eyepacs"], "--root is missing"),
        (["eyepacs", "--root=none"], "--root none: no such directory"),
        (["eyepacs", "--root=empty"], "--root empty: no image in it"),
        (["eyepacs", "--root"], "--root needs a value"),
        (["--root=x"], "one dataset is needed, 0 given"),
        (["eyepacs", "idrid", "--root=x"], "'idrid': one dataset is enough"),
        (["eyepacs", "--root=x", "--size=big"], "--size: 'big' is not a whole number"),
        (["eyepacs", "--root=x", "--size=8"], "--size 8 is out of range; use 32 to 8192"),
        (["folder", "--root=x", "--classes=a/b"], "--classes 'a/b': it is the name of a task"),
        (["eyepacs", "--root=x", "--classes=dr"], "--classes is only for folder"),
        (["eyepacs", "--root=x", "--classes_order=a,b"], "--classes_order is only for folder and"),
        (["folder", "--root=x", "--classes_order=a,b"], "add --classes or --task"),
        (["folder", "--root=x", "--classes=t", "--classes_order=a,a"], "a class is named twice"),
        (["phantom", "--root=x"], "phantom has no --root"),
        (["folder", "--root=x", "--name=a/b"], "--name 'a/b'"),
        (["folder", "--root=x", "--anonymise=maybe"], "--anonymise maybe: it takes no value"),
        (["csv", "--root=empty"], "csv needs --csv FILE and --image_column"),
        (["csv", "--root=x", "--csv=y", "--image_column=z", "--label_column=l"], "needs --task"),
    ],
)
def test_a_bad_command_line_costs_one_line_and_touches_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_the_command_line_arrives_as_it_was_written() -> None:
    words = "folder --root 007 --name 1e5 --out=a,b --samples-per-shard 10 --anonymise --size 64"
    assert parse(words.split()) == ShardRequest(
        dataset="folder", root=Path("007"), name="1e5", out=Path("a,b"),
        samples_per_shard=10, anonymise=True, size=64,
    )  # fmt: skip


def test_the_end_says_what_there_is_and_what_to_do_next(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["folder", f"--root={root}", f"--out={tmp_path / 'toy'}", "--classes=disease"]
    main([*arguments, "--workers=1"])
    text = capsys.readouterr().out
    for part in (
        "21 samples in 1 shards, 21 with a caption",
        "rejected: 1 the file is empty, such as train/normal/empty.jpg",
        "disease: cataract 10, normal 11",
        "a caption of test/cataract/14.jpg is one of 2:",
        "    A fundus photograph of cataract",
        f"split of disease: {tmp_path / 'toy' / 'splits' / 'disease.csv'}",
        f"contact sheet: {tmp_path / 'toy' / 'contact_sheet.png'}",
        f"next: python tools/check_shards.py {tmp_path / 'toy'}",
        "15 images to train on are too few for a pre-training of their own: name them beside other",
        f"--dataset {tmp_path / 'toy'} --task disease",
    ):
        assert part in text
    main(arguments)
    assert "nothing to do" in capsys.readouterr().out


def test_the_list_needs_no_heavy_module() -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); from maskedclip.shards.make_command import main;"
        "main(['--list']); heavy = {'cv2', 'numpy', 'torch', 'PIL'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "odir5k" in done.stdout


def grades(root: Path, patients: int) -> Path:
    """Write a small EyePACS: two eyes of each patient, graded 0 to 4 in turn."""
    (root / "train").mkdir(parents=True)
    rows = ["image,level"]
    for number in range(2 * patients):
        name = f"{number // 2}_{'left' if number % 2 else 'right'}"
        photograph = Image.fromarray(draw(number, 64).image_HWC)
        photograph.save(root / "train" / f"{name}.jpeg", quality=90)
        rows.append(f"{name},{number % 5}")
    (root / "trainLabels.csv").write_text("\n".join(rows))
    return root


def test_what_a_file_tells_of_a_patient_is_left_behind_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "download"
    root.mkdir()
    exif = Image.Exif()
    exif[0x013B] = "Doe, Jane"  # artist
    exif.get_ifd(0x8825)[2] = (47.0, 22.0, 0.0)  # latitude
    picture = Image.fromarray(draw(0, 64).image_HWC)
    picture.save(root / "one.jpg", exif=exif, comment=b"Doe, Jane")
    picture.transpose(Image.Transpose.ROTATE_90).save(root / "two.jpg", comment=b"Doe, Jane")
    summary = build(
        ShardRequest(dataset="folder", root=root, out=tmp_path / "toy", name="toy", workers=1),
        progress=False,
    )
    assert summary.manifest["removed"] == {"EXIF": 1, "GPS position": 1, "comment": 2}
    shards = Shards(tmp_path / "toy")
    for number in range(2):
        content, _ = shards.read(number)
        stored = Image.open(io.BytesIO(content))
        assert not stored.getexif()
        assert not {"comment", "icc_profile", "xmp"} & set(stored.info)
        assert b"Doe" not in content
    assert b"Doe" not in b"".join(contents(tmp_path / "toy").values())


def test_a_card_of_ones_own_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grades(tmp_path / "download", 3)
    card = (CARDS / "eyepacs.toml").read_text()
    (tmp_path / "mine.toml").write_text(card.replace('name = "eyepacs"', 'name = "mine"'))
    monkeypatch.chdir(tmp_path)
    main(["./mine.toml", "--root=download", "--workers=1"])
    shards = Shards(Path("shards/mine"))
    assert len(shards) == 6
    assert shards.metadata(0)["dataset"] == "mine"


def test_a_download_that_is_half_there_is_told_by_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = grades(tmp_path / "eyepacs", 10)
    main(["eyepacs", f"--root={root}", f"--out={tmp_path / 'out'}", "--workers=1"])
    said = capsys.readouterr().out
    assert "WARNING: not the published numbers" in said
    assert "images: 20 of 35,126" in said
    against = Shards(tmp_path / "out").manifest["against_published"]
    assert any(line.startswith("diabetic_retinopathy: 0 4 of") for line in against["differences"])


def test_the_end_shows_every_caption_that_some_samples_can_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = grades(tmp_path / "eyepacs", 10)
    template = "--caption_template=A retina with [CLS]"
    main(["eyepacs", f"--root={root}", f"--out={tmp_path / 'out'}", "--workers=1", template])
    lines = capsys.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(lines) if "is one of 7:" in line)
    wordings = [line.strip() for line in lines[start + 1 : start + 8]]
    assert wordings == captions(
        ["moderate diabetic retinopathy"], None, Wording("A retina with [CLS]")
    )


def test_splits_and_contact_sheet_come_with_the_shards_and_again_if_they_are_lost(
    tmp_path: Path,
) -> None:
    root = grades(tmp_path / "eyepacs", 40)
    asked = ShardRequest(dataset="eyepacs", root=root, out=tmp_path / "out", workers=1)
    first = build(asked, progress=False)
    split = tmp_path / "out" / "splits" / "diabetic_retinopathy.csv"
    sheet = tmp_path / "out" / "contact_sheet.png"
    assert first.splits == {"diabetic_retinopathy": split}
    before = split.read_bytes(), sheet.read_bytes()
    split.unlink()
    sheet.unlink()
    assert not build(asked, progress=False).built
    assert (split.read_bytes(), sheet.read_bytes()) == before
    parts = read_split(split, labelled(Shards(tmp_path / "out"))).parts
    patients = [{sample.patient for sample in samples} for samples in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 40


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pixels_of_20000_files(tmp_path: Path) -> None:
    """A file costs about two kilobytes of notes, and no photograph is kept."""

    def peak_megabytes(count: int) -> float:
        root = tmp_path / f"download{count}"
        root.mkdir()
        picture = tmp_path / "eye.jpg"
        Image.fromarray(draw(0, 160).image_HWC).save(picture)
        content = picture.read_bytes()
        for number in range(count):  # a comment makes each file another one
            name = f"{number:05d}.jpg"
            (root / name).write_bytes(
                content[:2] + b"\xff\xfe\x00\x07" + name[:5].encode() + content[2:]
            )
        code = (
            "import resource, sys; sys.path.insert(0, '.'); from pathlib import Path;"
            "from maskedclip.shards.make import ShardRequest, build;"
            f"build(ShardRequest(dataset='folder', name='many', root=Path({str(root)!r}),"
            f" workers=1, size=128, out=Path({str(tmp_path / f'out{count}')!r})), progress=False);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert len(Shards(tmp_path / f"out{count}")) == count
        return float(done.stdout)

    assert peak_megabytes(20_000) < peak_megabytes(2_000) + 18_000 * 4e-3


def test_with_anonymise_remarks_keep_their_counts_and_no_name(tmp_path: Path) -> None:
    root = grades(tmp_path / "eyepacs", 5)
    (root / "Doe Jane" / "masks").mkdir(parents=True)
    shutil.copy(root / "train" / "0_left.jpeg", root / "train" / "Doe_left.jpeg")
    (root / "trainLabels.csv").open("a").write("\nDoe_right,1\nDoe_left,9")
    asked = ShardRequest(dataset="eyepacs", root=root, out=tmp_path / "s" / "e", workers=1)
    plain = build(replace(asked, out=tmp_path / "plain"), progress=False).manifest["remarks"]
    hidden = build(replace(asked, anonymise=True), progress=False).manifest["remarks"]
    assert "Doe" in json.dumps(plain)
    assert "Doe" not in json.dumps(hidden)
    assert {n: len(found) for n, found in hidden.items()} == {
        n: len(found) for n, found in plain.items()
    }


def hard_files(folder: Path) -> None:
    """Leave a name in Latin-1, links to nothing, pipes, and what is too large or not read."""
    place = folder / "train" / "normal"
    content = (place / "01.jpg").read_bytes()
    Path(os.fsdecode(os.fsencode(place) + b"/caf\xe9.jpg")).write_bytes(content)
    latin = Path(os.fsdecode(os.fsencode(folder) + b"/train/b\xf6se"))
    latin.mkdir()
    (latin / "01.jpg").write_bytes(content)
    (place / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(place / "pipe.jpg")
    os.mkfifo(place / "pipe")
    (place / "tail.jpg").symlink_to("pipe")
    (place / "\x1b[31mred.jpg").write_bytes(content)
    (place / "zero.jpg").symlink_to("/dev/zero")
    (place / "loop.jpg").symlink_to("loop.jpg")
    with (place / "huge.jpg").open("wb") as file:
        file.truncate(9_000_000_000)
    for number in range(12):
        (place / f"{number}.heic").write_bytes(b"ftyp")
    (folder / "external_test").mkdir()
    (folder / "external_test" / "01.jpg").write_bytes(content)


def test_names_that_are_not_utf8_links_to_nothing_and_pipes_are_rejected_by_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, tmp_path / "hard")
    hard_files(tmp_path / "hard")
    words = ["folder", "--name=toy", "--size=64", "--workers=1", "--classes=disease"]
    words += [f"--root={tmp_path / 'hard'}", f"--out={tmp_path / 'out'}"]
    main(words)
    printed = capsys.readouterr().out
    rejected = {e["source"]: e["reason"] for e in Shards(tmp_path / "out").manifest["rejected"]}
    assert rejected["train/normal/caf\\xe9.jpg"] == "its name is not UTF-8; rename it"
    assert rejected["train/b\\xf6se/01.jpg"] == "its name is not UTF-8; rename it"
    assert rejected["train/normal/gone.jpg"] == "cannot be read: a symbolic link to nothing"
    for odd in ("pipe.jpg", "zero.jpg", "tail.jpg"):
        assert rejected[f"train/normal/{odd}"] == "cannot be read: it is no regular file"
    assert rejected["train/normal/loop.jpg"] == "cannot be read: a symbolic link to nothing"
    assert rejected["train/normal/huge.jpg"] == "9,000 MB is over the limit of 512 MB a file"
    assert rejected["train/normal/\\x1b[31mred.jpg"].startswith("its name has control characters")
    assert "\x1b[31m" not in printed
    assert "rejected: 2 its name is not UTF-8; rename it, such as train/b\\xf6se/01.jpg" in printed
    assert "left out folders: external_test: 1 images\n" in printed
    assert (
        "files not read: 1 without an ending: not read, such as train/normal/pipe; "
        "12 .heic: not read, such as train/normal/0.heic\n"
    ) in printed
    clean = build(request(root, tmp_path / "clean", samples_per_shard=1000), progress=False)
    assert Shards(tmp_path / "out").manifest["counts"] == clean.manifest["counts"]
    main(words)
    assert "nothing to do" in capsys.readouterr().out


def test_with_anonymise_the_names_of_hard_files_are_hashed_too(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "hard")
    hard_files(tmp_path / "hard")
    asked = request(tmp_path / "hard", tmp_path / "out", anonymise=True)
    text = json.dumps(build(asked, progress=False).manifest)
    # no name of hexadecimal letters alone: a hash may hold those
    assert not any(name in text for name in ("udce9", "xe9", "gone", "pipe", "0.heic", "external_"))
    assert "12 .heic: not read" in text


def test_files_that_are_passed_over_do_not_make_it_another_dataset(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path / "copy")
    first = build(request(tmp_path / "copy", tmp_path / "out"), progress=False)
    (tmp_path / "copy" / "new.heic").write_bytes(b"x")
    assert first.built
    assert not build(request(tmp_path / "copy", tmp_path / "out"), progress=False).built


def test_classes_order_states_the_grades_and_names_a_class_that_it_lacks(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has not cataract, which images have"):
        build(request(root, tmp_path / "no", classes_order=("normal", "catarct")), progress=False)
    assert not (tmp_path / "no").exists()
    order = ("normal", "doubtful", "cataract")
    manifest = build(request(root, tmp_path / "toy", classes_order=order), progress=False).manifest
    assert manifest["classes"] == {"disease": ["normal", "cataract"]}
    assert manifest["ordered"] == ["disease"]
    task = labelled(Shards(tmp_path / "toy"))
    assert (task.classes, task.ordered) == (("normal", "cataract"), True)
    without = build(request(root, tmp_path / "other"), progress=False).manifest
    assert "ordered" not in without
    assert "classes_order" not in without["settings"]


def test_a_build_lists_numbers_and_grades_in_their_order(tmp_path: Path) -> None:
    for name in ("Severe", "No_DR", "Mild"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        image = Image.fromarray(draw(len(name), 96).image_HWC)
        image.save(tmp_path / "tree" / name / "a.jpg", quality=95)
    manifest = build(request(tmp_path / "tree", tmp_path / "toy"), progress=False).manifest
    assert manifest["classes"] == {"disease": ["No_DR", "Mild", "Severe"]}


@pytest.mark.parametrize(
    ("dataset", "flags", "name"),
    [
        ("folder", {"out": Path("shards/My eyes (2)")}, "My_eyes_2"),
        ("csv", {"out": Path("shards/clinic")}, "clinic"),
        ("folder", {"out": Path("x"), "name": "own"}, "own"),
        ("folder", {}, "folder"),
        ("idrid", {"out": Path("shards/clinic")}, "idrid"),
    ],
)
def test_a_dataset_of_ones_own_is_called_as_its_directory(
    dataset: str, flags: dict[str, Any], name: str
) -> None:
    own = {"csv": Path("t.csv"), "image_column": "image"} if dataset == "csv" else {}
    assert ShardRequest(dataset=dataset, root=Path(), **own, **flags).dataset_name == name
