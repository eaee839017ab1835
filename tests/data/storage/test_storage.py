"""Storage that fails for a moment, for good, or changes under the reader."""

import errno
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskedclip.data.storage.retrying_files import RETRIED, RetryingFiles, Storage, open_plain
from maskedclip.data.storage.shards import DamagedSample, Shards, ShardWriter
from tests.tars import END, sample

JPEGS = [bytes([i]) * (700 + i) for i in range(12)]
QUICK = (0.0, 0.0, 0.0)  # three more tries, at once
WORDS = {number: os.strerror(number) for number in sorted(RETRIED)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "toy", "toy", samples_per_shard=4) as writer:
        for number, jpeg in enumerate(JPEGS):
            writer.add(f"key{number}", jpeg, {"report": f"report {number}"})
    return tmp_path / "toy"


class Faulty:
    """A call of the system that fails where `fails(how many calls there were)`."""

    def __init__(self, call: Callable, number: int, fails: Callable[[int], bool]) -> None:
        self.call, self.number, self.fails, self.count = call, number, fails, 0

    def __call__(self, *arguments):
        self.count += 1
        if self.fails(self.count):
            raise OSError(self.number, os.strerror(self.number))
        return self.call(*arguments)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def read_all(shards: Shards) -> list[bytes | str]:
    """Return the JPEG of each sample, or the reason why there is none."""
    found: list[bytes | str] = []
    for index in range(len(shards)):
        try:
            found.append(shards.read(index)[0])
        except DamagedSample as damage:
            found.append(damage.reason)
    return found


@pytest.mark.parametrize("number", WORDS, ids=WORDS.get)
@pytest.mark.parametrize("call", ["pread", "open"])
def test_what_fails_for_a_moment_is_tried_again(directory: Path, number: int, call: str) -> None:
    real = {"pread": os.pread, "open": open_plain}[call]
    faulty = Faulty(real, number, lambda count: count % 4 != 0)  # three times in a row
    shards = Shards(directory, Storage(pauses=QUICK)._replace(**{call: faulty}))
    assert read_all(shards) == JPEGS


@pytest.mark.parametrize("number", WORDS, ids=WORDS.get)
def test_what_fails_for_good_is_listed_with_the_words_of_the_system(
    directory: Path, number: int
) -> None:
    bad = False
    faulty = Faulty(os.pread, number, lambda _: bad)
    shards = Shards(directory, Storage(pread=faulty, pauses=QUICK))
    bad, faulty.count = True, 0
    assert read_all(shards) == [f"image cannot be read ({WORDS[number]})"] * len(JPEGS)
    assert faulty.count == 4 * len(JPEGS)  # one try and three more
    bad = False
    assert read_all(shards) == JPEGS


def test_an_error_that_time_does_not_mend_is_not_tried_again(directory: Path) -> None:
    bad = False
    faulty = Faulty(open_plain, errno.EACCES, lambda _: bad)
    shards = Shards(directory, Storage(open=faulty, pauses=(60.0,)))
    bad, faulty.count = True, 0
    assert set(read_all(shards)) == {"image cannot be read (Permission denied)"}
    assert faulty.count == len(JPEGS)


def test_the_pauses_are_kept(directory: Path) -> None:
    bad = False
    shards = Shards(
        directory, Storage(Faulty(open_plain, errno.EIO, lambda _: bad), pauses=(0.1, 0.2))
    )
    bad = True
    start = time.perf_counter()
    with pytest.raises(DamagedSample, match="Input/output error"):
        shards.read(0)
    assert time.perf_counter() - start >= 0.3


def test_every_try_is_on_a_file_opened_anew(directory: Path) -> None:
    stale: set[int] = set()
    opened: list[Path] = []

    def opening(path: Path) -> int:
        descriptor = open_plain(path)
        (stale.discard if path in opened else stale.add)(descriptor)
        opened.append(path)
        return descriptor

    def reading(descriptor: int, size: int, offset: int) -> bytes:
        if descriptor in stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return os.pread(descriptor, size, offset)

    assert read_all(Shards(directory, Storage(opening, reading, QUICK))) == JPEGS
    assert opened.count(directory / "toy-000001.tar") == 2


def test_a_bad_disk_at_the_manifest_is_one_line(directory: Path) -> None:
    faulty = Faulty(os.pread, errno.EIO, lambda _: True)
    with pytest.raises(ValueError, match=r"manifest\.json: cannot be read \(Input/output error\)"):
        Shards(directory, Storage(pread=faulty, pauses=QUICK))


def test_an_index_that_cannot_be_read_is_found_anew_from_the_tar(directory: Path) -> None:
    def opening(path: Path) -> int:
        if path.suffix == ".idx":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_plain(path)

    assert read_all(Shards(directory, Storage(opening, pauses=QUICK))) == JPEGS


def test_a_foreign_tar_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(sample("a") + END)
    faulty = Faulty(os.pread, errno.EIO, lambda count: count > 4)
    with pytest.raises(ValueError, match=r"x\.tar: cannot be read \(Input/output error\)"):
        Shards(tmp_path, Storage(pread=faulty, pauses=QUICK))


def test_short_reads_are_read_on(directory: Path) -> None:
    def little(descriptor: int, size: int, offset: int) -> bytes:
        return os.pread(descriptor, min(size, 100), offset)

    assert read_all(Shards(directory, Storage(pread=little))) == JPEGS


def test_a_file_that_is_replaced_while_it_is_open_is_opened_anew(directory: Path) -> None:
    path = directory / "toy-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))  # what a copy that is under way may look like
    shards = Shards(directory)
    assert "checksum" in read_all(shards)[0]
    (directory / "anew").write_bytes(whole)
    (directory / "anew").replace(path)
    assert read_all(shards) == JPEGS


def test_a_file_that_is_replaced_by_another_costs_its_samples(directory: Path) -> None:
    shards = Shards(directory)
    read_all(shards)
    (directory / "toy-000001.tar").replace(directory / "toy-000000.tar")
    (directory / "toy-000002.tar").write_bytes(b"")
    found = read_all(shards)
    assert found[4:8] == JPEGS[4:8]  # still open
    assert found[:4] == JPEGS[:4]  # still open too
    assert all("cut short" in reason for reason in found[8:])
    assert all("another checksum" in reason for reason in read_all(Shards(directory))[:4])


def test_more_shards_than_a_process_may_open_are_read(tmp_path: Path) -> None:
    count = 300
    with ShardWriter(tmp_path / "toy", "toy", samples_per_shard=1) as writer:
        for number in range(count):
            writer.add(f"key{number}", b"%d" % number, {})
    shards = Shards(tmp_path / "toy")
    open_before = open_files()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            found = list(pool.map(lambda i: shards.read(i)[0], range(count)))
            assert found == [b"%d" % number for number in range(count)]
    assert open_files() - open_before <= 256
    shards = Shards(tmp_path / "toy")  # the first is gone, and its files are closed
    assert open_files() <= open_before


def test_many_threads_read_what_one_does_while_storage_fails(directory: Path) -> None:
    faulty = Faulty(os.pread, errno.EIO, lambda count: count % 7 == 0)
    shards = Shards(directory, Storage(pread=faulty, pauses=(0.0,) * 9))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: shards.read(i % 12)[0], range(600)))
    assert found == [JPEGS[i % 12] for i in range(600)]


def test_files_travel_without_what_is_open(directory: Path) -> None:
    files = RetryingFiles([directory / "toy-000000.tar"], Storage())
    files.read(0, 1, 0)
    assert pickle.loads(pickle.dumps(files)).read(0, 3, 0) == b"key"
