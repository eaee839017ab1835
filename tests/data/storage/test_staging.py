"""Copies on a node's own disk: the batches are the same, whatever becomes of the copies."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maskedclip.data.source import Source
from maskedclip.data.storage.retrying_files import Storage, open_plain
from maskedclip.data.storage.shards import Shards
from maskedclip.data.storage.staging import Staging, TarUse
from tests.streams import Plan, assert_same, batches, stored
from tests.tars import END, sample

STEPS = 8
SIZES = (6, 6)


class Opened:
    """The system's own files, and which of them were opened."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def __call__(self, path: Path) -> int:
        self.paths.append(Path(path))
        return open_plain(path)

    def below(self, folder: Path) -> set[str]:
        return {path.name for path in self.paths if folder in path.parents}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Two datasets of 3 and 4 tars."""
    for name, samples in {"p": 20, "u": 25}.items():
        stored(tmp_path / "shared", name, samples)
    return tmp_path / "shared"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "node").mkdir()
    return tmp_path / "node"


def plan_of(shared: Path, opened: Opened | None = None) -> Plan:
    paired, unpaired = (Shards(shared / n, Storage(opened or open_plain)) for n in ("p", "u"))
    return Plan(
        Source("paired", [paired], 0, True), Source("unpaired", [unpaired], 0, False), SIZES
    )


def staging_of(plan: Plan, stage: str | Path, run: Path = Path("/runs/one")) -> Staging:
    tars = [
        TarUse(dataset, number)
        for source in plan[:2]
        if source is not None
        for which, dataset in enumerate(source.datasets)
        for number in dataset.tars_of(source.taking_part(which))
    ]
    return Staging(str(stage), run, tars, says=True, poll_s=0.01)


def copies(place: Path) -> list[Path]:
    return sorted(place.glob("maskedclip-*/*.tar"))


@contextmanager
def staged(plan: Plan, place: Path, whole: bool = True, remove: bool = False) -> Iterator[Staging]:
    staging = staging_of(plan, place)
    staging.start()
    if whole:
        staging.wait()
    yield staging
    staging.close(remove=remove)


def assert_the_same(plan: Plan, shared: Path, first: int = 0, threads: int = 2) -> None:
    ours = batches(plan, first, STEPS, threads=threads)
    for one, other in zip(ours, batches(plan_of(shared), first, STEPS), strict=True):
        assert_same(one, other)


def test_batches_are_the_same_bits_in_the_same_order_from_copies(shared: Path, place: Path) -> None:
    plan = plan_of(shared, opened := Opened())
    with staged(plan, place):
        opened.paths.clear()
        assert_the_same(plan, shared)
    assert opened.below(place) == {path.name for path in copies(place)}
    assert opened.below(shared) == set()
    contents = {path.read_bytes() for path in shared.glob("*/*.tar")}
    assert {path.read_bytes() for path in copies(place)} == contents
    assert len(contents) == 7


def test_first_steps_read_from_the_shared_file_system_and_wait_for_no_copy(
    shared: Path, place: Path
) -> None:
    hold = True

    def reading(descriptor: int, size: int, offset: int) -> bytes:
        while hold and size > 100_000_000:
            time.sleep(0.01)
        return os.pread(descriptor, size, offset)

    slow = Shards(shared / "u", Storage(pread=reading))
    plan = Plan(plan_of(shared).paired, Source("unpaired", [slow], 0, False), SIZES)
    with staged(plan, place, whole=False) as staging:
        assert_the_same(plan, shared)
        hold = False
        staging.wait()
        assert_the_same(plan, shared, first=STEPS)


def test_a_second_process_of_the_node_copies_nothing_and_uses_what_the_first_has_verified(
    shared: Path, place: Path
) -> None:
    first, second = plan_of(shared), plan_of(shared, opened := Opened())
    opened.paths.clear()
    with staged(first, place), staged(second, place):
        assert_the_same(second, shared)
        assert opened.below(shared) == set()
        assert opened.below(place) == {path.name for path in copies(place)}


def test_a_process_takes_over_where_the_one_that_copied_is_gone(shared: Path, place: Path) -> None:
    first, second = staging_of(plan_of(shared), place), staging_of(plan_of(shared), place)
    first.start()
    first.wait()
    first.close(remove=False)
    listed = next(place.glob("maskedclip-*/verified"))
    before = listed.stat().st_ino
    second.start()
    second.wait()
    second.close(remove=False)
    assert listed.stat().st_ino != before  # it vouches for them itself


CHILD = """
import os, sys, time
from pathlib import Path
from maskedclip.data.storage.retrying_files import Storage
from maskedclip.data.storage.shards import Shards
from maskedclip.data.storage.staging import Staging, TarUse

def reading(descriptor, size, offset):
    content = os.pread(descriptor, size, offset)
    if in_copy:
        in_copy.append(1)
        if len(in_copy) > 20:  # of some 8 a tar
            print("copies", flush=True)
            time.sleep(600)
    return content

in_copy = []
from maskedclip.data.storage import staging
staging._CHUNK = 4096
shards = [Shards(Path(sys.argv[1]) / name, Storage(pread=reading)) for name in "pu"]
in_copy.append(1)
uses = [TarUse(s, n) for s in shards for n in range(len(s.manifest["shards"]))]
one = Staging(sys.argv[2], Path("/runs/one"), uses, says=True)
one.start()
time.sleep(600)
"""


def test_after_a_kill_in_the_midst_whole_copies_are_used_and_the_half_one_is_never_read(
    shared: Path, place: Path
) -> None:
    words = [sys.executable, "-c", CHILD, str(shared), str(place)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    kept = copies(place)
    inodes = {path.name: path.stat().st_ino for path in kept}
    assert len(list(place.glob("maskedclip-*/.*.tar.*"))) == 1
    assert 0 < len(kept) < 7
    plan = plan_of(shared, opened := Opened())
    opened.paths.clear()
    with staged(plan, place):
        read = {path.name for path in opened.paths if path.suffix == ".tar"}
        assert len(read) == 7 - len(kept)  # the others were not copied again
        assert_the_same(plan, shared, first=3)
    assert {path.name: path.stat().st_ino for path in copies(place)}.items() >= inodes.items()
    assert list(place.glob("maskedclip-*/.*")) == []


def damaged(path: Path, way: str) -> None:
    content = bytearray(path.read_bytes())
    if way == "a bit":
        content[len(content) // 2 - 100] ^= 1
    elif way == "cut":
        del content[2000:]
    elif way == "noise":
        content[512:] = os.urandom(len(content) - 512)
    else:
        content.clear()
    path.write_bytes(content)


WAYS = ["a bit", "cut", "noise", "nothing"]


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_that_was_damaged_between_two_starts_is_made_again(
    shared: Path, place: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    with staged(plan_of(shared), place):
        pass
    victim = copies(place)[2]
    whole = victim.read_bytes()
    damaged(victim, way)
    plan = plan_of(shared)
    with staged(plan, place):
        assert_the_same(plan, shared, first=2)
    assert victim.read_bytes() == whole
    assert f"{victim}: is no copy of its tar any more; copied again" in caplog.messages


@pytest.mark.parametrize("way", [*WAYS, "gone"])
@pytest.mark.parametrize("threads", [0, 3])
def test_a_copy_that_is_damaged_while_it_is_in_use_costs_no_sample(
    shared: Path, place: Path, way: str, threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(shared)
    with staged(plan, place):
        for path in copies(place):
            if way == "gone":
                path.unlink()
            else:
                damaged(path, way)
        ours = batches(plan, 0, STEPS, threads=threads)
    for one, other in zip(ours, batches(plan_of(shared), 0, STEPS), strict=True):
        assert_same(one, other)
    assert [batch.lost for batch in ours] == [[]] * STEPS
    again = [line for line in caplog.messages if line.endswith(".tar again")]
    assert 0 < len(again) == len(set(again))  # once a tar


def test_a_tar_that_is_damaged_itself_is_not_copied_and_loses_the_same_samples(
    shared: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged(shared / "u" / "u-000001.tar", "noise")
    plan = plan_of(shared)
    with staged(plan, place):
        assert_the_same(plan, shared)
        assert any(batch.lost for batch in batches(plan, 0, STEPS))
    assert len(copies(place)) == 6
    assert f"{shared / 'u' / 'u-000001.tar'}: is not staged, as its content is not" in caplog.text


def test_datasets_of_one_name_are_never_mixed(tmp_path: Path, place: Path) -> None:
    stored(tmp_path / "one", "x", 9)
    stored(tmp_path / "two", "x", 13)
    for folder in ("one", "two", "one"):
        shards, alone = Shards(tmp_path / folder / "x"), Shards(tmp_path / folder / "x")
        plan, other = (Plan(Source("paired", [s], 0, True), None, (6, 0)) for s in (shards, alone))
        uses = [TarUse(shards, number) for number in range(len(shards.manifest["shards"]))]
        staging = Staging(str(place), Path("/runs/one"), uses, says=True)
        staging.start()
        staging.wait()
        for one, two in zip(batches(plan, 0, 3), batches(other, 0, 3), strict=True):
            assert_same(one, two)
        staging.close(remove=False)


def test_what_is_read_twice_is_copied_once(shared: Path, place: Path) -> None:
    one, two = Shards(shared / "p"), Shards(shared / "p")
    plan = Plan(Source("paired", [one], 0, True), Source("unpaired", [two], 0, False), SIZES)
    with staged(plan, place):
        pass
    assert len(copies(place)) == 3


def test_tars_that_show_no_sample_are_not_copied(tmp_path: Path, place: Path) -> None:
    stored(tmp_path, "a", 9)
    stored(tmp_path, "b", 9)
    source = Source(
        "paired", [Shards(tmp_path / "a"), Shards(tmp_path / "b")], 0, True, weights=(1, 0)
    )
    with staged(Plan(source, None, (6, 0)), place):
        pass
    assert len(copies(place)) == 2


def test_third_party_tars_are_vouched_for_by_their_index(tmp_path: Path, place: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for number in range(2):
        content = b"".join(sample(f"{number}{i}") for i in range(4 + number))
        (theirs / f"a {number}.tar").write_bytes(content + END)
    plan, other = (
        Plan(Source("unpaired", [Shards(theirs)], 0, False), None, (4, 0)) for _ in range(2)
    )
    with staged(plan, place):
        pass
    damaged(copies(place)[0], "a bit")
    whole = copies(place)[1].stat().st_ino
    with staged(plan, place):
        for one, two in zip(batches(plan, 0, 5), batches(other, 0, 5), strict=True):
            assert_same(one, two)
    assert copies(place)[1].stat().st_ino == whole
    contents = {path.read_bytes() for path in theirs.glob("*.tar")}
    assert {path.read_bytes() for path in copies(place)} == contents


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_that_ended_removes_its_copies_and_one_that_stopped_leaves_them(
    shared: Path, place: Path, ends: bool
) -> None:
    with staged(plan_of(shared), place, remove=ends):
        assert len(copies(place)) == 7
    assert len(list(place.iterdir())) == (0 if ends else 1)


def test_what_others_have_in_the_place_stays(shared: Path, place: Path) -> None:
    (place / "theirs").write_text("data")
    with staged(plan_of(shared), place, remove=True):
        other = staging_of(plan_of(shared), place, Path("/runs/other"))
        other.start()
        other.wait()
        other.close(remove=False)
    assert (place / "theirs").read_text() == "data"
    assert len(copies(place)) == 7


def link_of_a_stranger(place: Path, shared: Path) -> str:
    staging = staging_of(plan_of(shared), place)
    (place / "elsewhere").mkdir()
    staging._folder.symlink_to(place / "elsewhere")
    return str(place)


def text_file(place: Path, _: Path) -> str:
    (place / "file").touch()
    return str(place / "file")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (lambda place, _: str(place / "none"), "is no directory on"),
        (lambda *_: "$NO_SUCH_VARIABLE/x", "has a variable that is not set on"),
        (lambda *_: "/proc", "/proc takes no copies"),
        (text_file, "is no directory on"),
        (link_of_a_stranger, "is not a directory of this user on"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line_and_the_run_goes_on(
    shared: Path,
    place: Path,
    where: Callable[[Path, Path], str],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = plan_of(shared)
    staging = staging_of(plan, where(place, shared))
    staging.start()
    assert_the_same(plan, shared)
    staging.close(remove=True)
    (line,) = caplog.messages
    assert words in line
    assert line.endswith("; the shards are read where they are")
    assert copies(place) == []


def test_variables_are_expanded_where_the_copies_are_made(
    shared: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", str(place))
    staging = staging_of(plan_of(shared), "$SLURM_TMPDIR")
    staging.start()
    staging.wait()
    staging.close(remove=False)
    assert len(copies(place)) == 7


def test_a_full_place_keeps_what_it_has_and_the_rest_is_read_where_it_is(
    shared: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = sorted(path.stat().st_size for path in shared.glob("*/*.tar"))
    assert sizes[0] < sizes[-1]
    plan = plan_of(shared, opened := Opened())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 1, limits[1]))  # a write that fails
    try:
        with staged(plan, place):
            opened.paths.clear()
            assert_the_same(plan, shared)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = [line for line in caplog.messages if "takes no more" in line]
    assert f"{len(copies(place))} of 7 tars are read from there, the others where they are" in line
    assert list(place.glob("maskedclip-*/.*")) == []


def test_a_place_without_room_for_a_tar_is_said_with_its_free_space(
    shared: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from maskedclip.data.storage import staging

    monkeypatch.setattr(staging, "_ROOM", 1 << 60)  # bytes to leave free
    plan = plan_of(shared)
    with staged(plan, place):
        assert_the_same(plan, shared)
    (line,) = caplog.messages
    assert f"{place} has too little room (" in line
    assert re.search(r"\([\d.]+ [GM]B free; a tar takes [1-9]\d*\.\d kB, and 11529", line), line
    assert "GB are kept free) on " in line
    assert "; 0 of 7 tars are read from there" in line
