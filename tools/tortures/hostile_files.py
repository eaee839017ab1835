"""Files that a stranger may hand out: weights, checkpoints, photographs."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image

from tests.checkpoints import resealed
from tests.engine.test_checkpoint_metadata import Call, calls


class Mark:
    """What a hostile file would leave where its code ran, or where its path leads."""

    def __init__(self, executed: Path, outside: Path) -> None:
        self.executed, self.outside = executed, outside

    def left(self) -> list[str]:
        return [str(path) for path in (self.executed, self.outside) if path.exists()]


def raw(number: int) -> Callable[[Path, Mark], Path]:
    """Return what writes the pickle of that number of `calls`, bare, as torch once did."""

    def make(place: Path, mark: Mark) -> Path:
        (place / "x.pth").write_bytes(calls(mark.executed)[number])
        return place / "x.pth"

    return make


def zipped(content: Callable[[Mark], bytes], **members: bytes) -> Callable[[Path, Mark], Path]:
    """Return what writes an archive of torch whose pickle is this."""

    def make(place: Path, mark: Mark) -> Path:
        torch.save({"model": {"a": torch.zeros(4)}}, place / "whole.pth")
        with (
            zipfile.ZipFile(place / "whole.pth") as whole,
            zipfile.ZipFile(place / "x.pth", "w") as file,
        ):
            for name in whole.namelist():
                own = content(mark) if name.endswith("data.pkl") else whole.read(name)
                file.writestr(name, own)
            for name, bytes_ in members.items():
                file.writestr(name, bytes_)
        return place / "x.pth"

    return make


def bomb(place: Path, _: Mark) -> Path:
    """A deflated gigabyte of zeros, in a megabyte."""
    torch.save({"model": {"a": torch.zeros(4)}}, place / "whole.pth")
    with (
        zipfile.ZipFile(place / "whole.pth") as whole,
        zipfile.ZipFile(place / "x.pth", "w", zipfile.ZIP_DEFLATED) as file,
    ):
        for name in whole.namelist():
            file.writestr(name, whole.read(name))
        with file.open("whole/data/1", "w") as member:
            for _piece in range(64):
                member.write(bytes(1 << 24))
    return place / "x.pth"


def safetensors(header: bytes, length: int | None = None) -> Callable[[Path, Mark], Path]:
    def make(place: Path, _: Mark) -> Path:
        size = len(header) if length is None else length
        (place / "x.safetensors").write_bytes(struct.pack("<Q", size) + header + bytes(64))
        return place / "x.safetensors"

    return make


def tensor(**changes: object) -> bytes:
    entry = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | changes
    return json.dumps({"cls_token": entry}).encode()


def plain(name: str, content: bytes) -> Callable[[Path, Mark], Path]:
    def make(place: Path, _: Mark) -> Path:
        (place / name).write_bytes(content)
        return place / name

    return make


def pipe(name: str) -> Callable[[Path, Mark], Path]:
    def make(place: Path, _: Mark) -> Path:
        os.mkfifo(place / name)
        return place / name

    return make


def link(name: str, target: str) -> Callable[[Path, Mark], Path]:
    def make(place: Path, _: Mark) -> Path:
        (place / name).symlink_to(target)
        return place / name

    return make


def scripted(place: Path, mark: Mark) -> Path:
    """TorchScript whose archive has code, and a pickle that calls."""
    code = {"whole/code/__torch__.py": b"def f(): pass", "whole/constants.pkl": b"\x80\x02)."}
    return zipped(lambda m: pickle.dumps(Call(os.mkdir, str(m.executed)), 2), **code)(place, mark)


WEIGHTS: Mapping[str, Callable[[Path, Mark], Path]] = {
    **{f"pickle {number}": raw(number) for number in (*range(2, 51, 6), 60, 61)},
    "zip that calls": zipped(lambda m: pickle.dumps(Call(os.system, f"touch {m.executed}"), 2)),
    "zip that evaluates": zipped(
        lambda m: pickle.dumps(Call(eval, f"open({str(m.executed)!r}, 'w')"), 2)
    ),
    "zip of nothing": zipped(lambda _: b"\x80\x02N."),
    "zip of a number": zipped(lambda _: pickle.dumps(7, 2)),
    "zip that leads out": zipped(lambda _: b"\x80\x02N.", **{"../../outside": b"x"}),
    "zip bomb": bomb,
    "TorchScript": scripted,
    "header of an exabyte": safetensors(b"{}", 1 << 60),
    "header that is no JSON": safetensors(b"{" * 40),
    "header nested deeply": safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "header of a list": safetensors(b"[]"),
    "offsets beyond": safetensors(tensor(data_offsets=[0, 1 << 40], shape=[1 << 38])),
    "offsets that turn back": safetensors(tensor(data_offsets=[64, 0])),
    "negative shape": safetensors(tensor(shape=[-4, -4])),
    "shape that overflows": safetensors(tensor(shape=[1 << 62, 4])),
    "name that moves the cursor": safetensors(tensor().replace(b"cls_token", b"\\u001b[2J")),
    "tensors twice": safetensors(b'{"a":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]},'
                                 b'"b":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}'),
    "empty": plain("x.pth", b""),
    "empty safetensors": plain("x.safetensors", b""),
    "page of an error": plain("x.pth", b"<!DOCTYPE html><html>404</html>"),
    "pointer of Git LFS": plain("x.pth", b"version https://git-lfs.github.com/spec/v1\noid x\n"),
    "gzip": plain("x.pth", b"\x1f\x8b\x08" + bytes(40)),
    "named pipe": pipe("x.pth"),
    "named pipe of safetensors": pipe("x.safetensors"),
    "link to zeros": link("x.pth", "/dev/zero"),
    "link to itself": link("x.pth", "x.pth"),
}  # fmt: skip


def metadata_that_calls(step: Path, mark: Mark) -> None:
    (step / ".metadata").write_bytes(pickle.dumps(Call(os.system, f"touch {mark.executed}")))
    resealed(step)


def metadata_within(step: Path, mark: Mark) -> None:
    index = pickle.loads((step / ".metadata").read_bytes())
    index.planner_data = {"x": Call(os.mkdir, str(mark.executed))}
    (step / ".metadata").write_bytes(pickle.dumps(index))
    resealed(step)


def metadata_elsewhere(step: Path, _: Mark) -> None:
    index = pickle.loads((step / ".metadata").read_bytes())
    for place in index.storage_data.values():
        place.relative_path = "../../../outside"
    (step / ".metadata").write_bytes(pickle.dumps(index))
    resealed(step)


def settings_that_call(step: Path, mark: Mark) -> None:
    content = io.BytesIO()
    torch.save(Call(os.system, f"touch {mark.executed}"), content)
    file = step / "__0_0.distcp"
    index = pickle.loads((step / ".metadata").read_bytes())
    for place in index.storage_data.values():
        if place.length < 2000:
            place.offset, place.length = file.stat().st_size, len(content.getvalue())
    file.write_bytes(file.read_bytes() + content.getvalue())
    (step / ".metadata").write_bytes(pickle.dumps(index))
    resealed(step)


def of_another_run(step: Path, _: Mark) -> None:
    resealed(step, run="0" * 32)


CHECKPOINTS: Mapping[str, Callable[[Path, Mark], None]] = {
    "index that calls": metadata_that_calls,
    "index that calls within": metadata_within,
    "index that leads out": metadata_elsewhere,
    "settings that call": settings_that_call,
    "everybody may write": lambda step, _: step.chmod(0o777),
    "a file that everybody may write": lambda step, _: (step / "__0_0.distcp").chmod(0o666),
    **({"of another user": lambda step, _: os.chown(step, 12345, -1)} if not os.getuid() else {}),
}


def png(size: tuple[int, int], mode: str = "RGB") -> Callable[[Path], Path]:
    """Return what writes a picture of so many pixels, all black: kilobytes for gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    def make(folder: Path) -> Path:
        width, height = size
        head = struct.pack(">IIBBBBB", width, height, 8, {"RGB": 2, "RGBA": 6}[mode], 0, 0, 0)
        row = bytes(1 + width * len(mode))
        packed = zlib.compressobj()
        rows = b"".join(packed.compress(row) for _ in range(min(height, 2000))) + packed.flush()
        content = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        (folder / "hostile.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        return folder / "hostile.png"

    return make


def hole(folder: Path) -> Path:
    with (folder / "hostile.jpg").open("wb") as file:
        file.truncate(9 << 30)
    return folder / "hostile.jpg"


def named(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.new("RGB", (64, 64)).save(folder / "plain.jpg")
        return (folder / "plain.jpg").rename(folder / name)

    return make


def of(make: Callable[[Path, Mark], Path]) -> Callable[[Path], Path]:
    return lambda folder: make(folder, Mark(folder / "executed", folder / "outside"))


PHOTOGRAPHS: Mapping[str, Callable[[Path], Path]] = {
    "named pipe": of(pipe("hostile.jpg")),
    "link to zeros": of(link("hostile.jpg", "/dev/zero")),
    "broken link": of(link("hostile.jpg", "nowhere.jpg")),
    "link to itself": of(link("hostile.jpg", "hostile.jpg")),
    "link out of the folder": of(link("hostile.jpg", "/etc/passwd")),
    "nine gigabytes": hole,
    "pixel bomb": png((60_000, 60_000)),
    "pixel bomb with transparency": png((9_000, 9_000), "RGBA"),
    "empty": of(plain("hostile.jpg", b"")),
    "text": of(plain("hostile.jpg", b"#!/bin/sh\ntouch executed\n")),
    "PostScript": of(plain("hostile.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
    "zip": of(plain("hostile.jpg", b"PK\x03\x04" + bytes(60))),
    "name with a line end": named("hostile\n.jpg"),
    "name that moves the cursor": named("hostile\x1b[2J.jpg"),
    "name that is not UTF-8": named(os.fsdecode(b"hostile\xff.jpg")),
    "name that reads backwards": named("hostile\u202egpj.jpg"),
}
