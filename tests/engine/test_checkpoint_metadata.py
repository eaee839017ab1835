"""The index of a checkpoint is a pickle: nothing that it names is called."""

import io
import os
import pickle
import random
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from maskedclip.engine.checkpoint import restore
from maskedclip.engine.checkpoint_metadata import METADATA, read_metadata
from maskedclip.engine.distributed import process_group
from tests.checkpoints import resealed
from tests.engine.test_checkpoint import save, state

MARK = "MASKEDCLIP_TEST_MARK"


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    with process_group():
        yield


@pytest.fixture
def step(tmp_path: Path) -> Path:
    save(tmp_path / "checkpoints", 1)
    return tmp_path / "checkpoints" / "step-00000001"


def test_the_index_is_what_dcp_itself_reads(step: Path) -> None:
    ours, theirs = read_metadata(step), dcp.FileSystemReader(step).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data
    assert ours.version == theirs.version


class Call:
    """Pickles as a call of a function, which is made when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.call = function, given

    def __reduce__(self) -> Any:
        return self.call


def calls(mark: Path) -> list[bytes]:
    """Return pickles that make the file `mark` where they are unpickled as they are."""
    code = f"open({str(mark)!r}, 'w')"
    functions: list[tuple[Callable[..., Any], Any]] = [
        (os.system, f"touch {mark}"), (eval, code), (exec, code), (open, (str(mark), "w")),
        (os.mkdir, str(mark)), (subprocess.call, (["touch", str(mark)],)), (Path.touch, mark),
        (torch.save, (1, str(mark))), (os.putenv, (MARK, "1")), (os.mkfifo, str(mark)),
    ]  # fmt: skip
    found = [
        pickle.dumps(Call(f, *(g if isinstance(g, tuple) else (g,))), protocol)
        for f, g in functions
        for protocol in range(6)
    ]
    name = str(mark).encode()
    found += [  # by hand: INST, OBJ, NEWOBJ_EX, a call within a call, getattr, and EXT
        b"(S'touch " + name + b"'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch " + name + b"'\no.",
        b"\x80\x04cos\nsystem\n(S'touch " + name + b"'\nt}\x92.",
        b"cbuiltins\ngetattr\n(cos\nS'system'\ntR(S'touch " + name + b"'\ntR.",
        b"\x80\x04\x8c\x0bpathlib\x94\x8c\x0aPath.touch\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x0dserialization\x93.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x96" + struct.pack("<Q", 1 << 50) + b".",  # a bytearray of a petabyte
    ]
    return found


def test_each_of_many_pickles_that_call_is_refused_and_calls_nothing(
    step: Path, tmp_path: Path
) -> None:
    mark, whole = tmp_path / "called", (step / METADATA).read_bytes()
    found = calls(mark)
    # the same within an index that is right elsewhere
    for protocol in (2, 4, 5):
        for place in ("state_dict_metadata", "storage_data", "planner_data", "version"):
            changed = pickle.loads(whole)
            setattr(changed, place, {"x": Call(os.system, f"touch {mark}")})
            found.append(pickle.dumps(changed, protocol))
        changed = pickle.loads(whole)
        next(iter(changed.storage_data.values())).relative_path = Call(os.mkdir, str(mark))
        found.append(pickle.dumps(changed, protocol))
    assert len(found) >= 80
    for content in found:
        (step / METADATA).write_bytes(content)
        with pytest.raises(ValueError, match=r"\.metadata: no index of DCP") as error:
            read_metadata(step)
        assert "\n" not in str(error.value)
        assert not mark.exists()
        assert MARK not in os.environ
    pickle.loads(found[0])  # and it would have been called
    assert mark.exists()


def test_each_of_100_changed_indices_is_refused_or_read_as_one(step: Path) -> None:
    whole, rng, refused = (step / METADATA).read_bytes(), random.Random(1), 0
    for number in range(100):
        content = bytearray(whole)
        at = rng.randrange(len(content))
        match number % 4:
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at:]
            case 2:
                content[at:at] = content[at : at + 20]
            case 3:  # names and opcodes of a pickle
                content[at:at] = rng.choice([b"cos\nsystem\n", b"R", b"\x93", b"b", b"o", b"i"])
        (step / METADATA).write_bytes(content)
        try:
            assert type(read_metadata(step)) is dcp.Metadata
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either is right)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("elsewhere", ["../x", "/etc/passwd", "a/b", ".."])
def test_an_index_that_points_to_files_elsewhere_is_refused(step: Path, elsewhere: str) -> None:
    index = pickle.loads((step / METADATA).read_bytes())
    for place in index.storage_data.values():
        place.relative_path = elsewhere
    (step / METADATA).write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match="a file elsewhere"):
        read_metadata(step)


def test_an_index_with_a_manifest_that_fits_it_is_refused_and_nothing_runs(
    step: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "called"
    (step / METADATA).write_bytes(pickle.dumps(Call(os.system, f"touch {mark}")))
    resealed(step)
    with pytest.raises(ValueError, match=r"no index of DCP \(it names posix\.system\)"):
        restore(step.parent, *state(0))
    assert not mark.exists()


def test_a_setting_that_would_call_something_is_refused_and_nothing_runs(
    step: Path, tmp_path: Path
) -> None:
    mark, content = tmp_path / "called", io.BytesIO()
    torch.save(Call(os.system, f"touch {mark}"), content)
    file = step / "__0_0.distcp"
    index = pickle.loads((step / METADATA).read_bytes())
    for place in index.storage_data.values():  # one file: the settings are in it, too
        if place.length < 2000:
            place.offset, place.length = file.stat().st_size, len(content.getvalue())
    file.write_bytes(file.read_bytes() + content.getvalue())
    (step / METADATA).write_bytes(pickle.dumps(index))
    resealed(step)
    with pytest.raises(ValueError, match="holds more than tensors and plain values"):
        restore(step.parent, *state(0))
    assert not mark.exists()
