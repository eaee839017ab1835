"""Weights are read without running what is in their file, unless one asks for it by name."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maskedclip.models.pretrained import load_encoder
from maskedclip.weights.convert import convert, main
from maskedclip.weights.convert_child import read
from tests.models.checkpoints.test_architectures import vit


class Malicious:
    """An object whose unpickling touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trapped(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint that would make a directory, and that directory."""
    target, file = tmp_path / "touched", tmp_path / "mae_pretrain.pth"
    torch.save({"model": vit().state_dict(), "args": Malicious(target)}, file)
    return file, target


def test_a_pickle_that_would_run_something_is_refused_and_named_the_tool(
    trapped: tuple[Path, Path],
) -> None:
    file, target = trapped
    with pytest.raises(ValueError, match=r"holds more than tensors.*tools/convert_weights") as e:
        load_encoder(file)
    assert "\n" not in str(e.value)
    assert not target.exists()


def test_the_trap_is_a_trap(trapped: tuple[Path, Path]) -> None:
    file, target = trapped
    torch.load(file, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_converting_makes_no_object_of_a_pickle(tmp_path: Path, zipped: bool) -> None:
    target, file = tmp_path / "touched", tmp_path / "old.pth"
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}
    content = {"state_dict": tensors, "args": Malicious(target), "at": [Malicious(target)]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    converted = read(file)
    assert not target.exists()
    assert converted.keys() == tensors.keys()
    assert all(converted[name].equal(tensors[name]) for name in tensors)


def test_the_tool_wants_to_be_asked_by_name_and_then_loads(
    trapped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, target = trapped
    with pytest.raises(SystemExit) as asked:
        main([str(file)])
    said = capsys.readouterr().err
    assert (asked.value.code, said.count("\n")) == (2, 1)
    assert "add --i_trust_this_file" in said
    out = convert(file, file.with_suffix(".safetensors"))
    assert not target.exists()
    assert load_file(out).keys() == vit().state_dict().keys()
    assert load_encoder(out)[1].format == "MAE"


def test_what_holds_no_tensors_is_said_in_one_line(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="no tensors by name") as error:
        convert(tmp_path / "empty.pth", tmp_path / "out.safetensors")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()


class Doubled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Part(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.register_buffer("mean", torch.arange(2.0).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Whole(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(Part(), Part())
        self.turned = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.tied = self.blocks[0].linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_read_without_torch_and_has_the_tensors_of_its_state(
    tmp_path: Path,
) -> None:
    module = torch.jit.script(Whole())
    module.save(tmp_path / "m.pt")
    found, wanted = read(tmp_path / "m.pt"), module.state_dict()
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)
    assert all(found[name].dtype == wanted[name].dtype for name in wanted)


class Packing(torch.nn.Module):
    """Writes a file where torch opens its archive."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        torch.save(torch.ones(1), self.path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_code_of_a_torchscript_archive_is_not_run(tmp_path: Path) -> None:
    mark, file = tmp_path / "written", tmp_path / "m.pt"
    torch.jit.script(Packing(str(mark))).save(file)
    with pytest.raises(ValueError, match="packs its state by code of its own; not read"):
        convert(file, tmp_path / "out.safetensors")
    assert not mark.exists()
    torch.jit.load(file)  # and torch would have run it
    assert mark.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_torchscript_archive_gives_its_tensors(tmp_path: Path) -> None:
    torch.jit.trace(Doubled(), torch.ones(3)).save(tmp_path / "ViT-L-14.pt")
    with pytest.raises(ValueError, match="tools/convert_weights"):
        load_encoder(tmp_path / "ViT-L-14.pt")
    assert read(tmp_path / "ViT-L-14.pt")["weight"].tolist() == [0, 1, 2]
