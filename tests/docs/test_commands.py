"""Every line of a bash block is one that its program takes, or is written here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from maskedclip.command import read_config
from maskedclip.compare import COMPARE
from maskedclip.config import LaunchConfig
from maskedclip.doctor.examine import DoctorConfig
from maskedclip.explain.command import EXPLAIN
from maskedclip.finetune.command import EVALUATE, finetune_line
from maskedclip.grid.ablation_command import read_ablation
from maskedclip.grid.study_command import parse_study, study_line
from maskedclip.grid.sweep_command import read_sweep
from maskedclip.plan.cost import PlanConfig
from maskedclip.predict.command import PREDICT
from maskedclip.recipes import RECIPES
from maskedclip.report.command import REPORT
from maskedclip.shards.check_command import parse as check_shards
from maskedclip.shards.make_command import MAKE_SHARDS
from maskedclip.shards.make_command import parse as make_shards
from maskedclip.shards.splits_command import SPLITS
from maskedclip.slurm import SLURM
from maskedclip.weights.convert import CONVERT
from maskedclip.weights.export import EXPORT
from maskedclip.weights.prefetch import PrefetchConfig
from tests.docs.pages import CONTRIBUTING, PAGES, ROOT, blocks, commands, name_of, words_of
from tools.torture import TORTURE

RECIPE = "maskedclip_vitl"
NEW_RECIPES = {"rotation"}  # of the example in CONTRIBUTING.md: test_contributing.py runs them
NEW_FLAGS = ("--loss.uniformity",)
SHELL = {  # what is no program of ours
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install -e .",
    "pip install -e '.[test]'",
    "pip install 'torch>=2.13,<2.15' torchvision "
    "--index-url https://download.pytorch.org/whl/cu126",
    "tools/check",
}
LINES = [(page, line) for page in PAGES for line in commands(page)]


def a_study(rest: list[str]) -> None:
    given = study_line("paper").parse(rest)
    parse_study(given)
    given.config(2)


def a_dataset(rest: list[str]) -> None:
    MAKE_SHARDS.parse(rest) if rest == ["--list"] else make_shards(rest)


def some_tests(rest: list[str]) -> None:
    """pytest's own flags are few here; every path is one of the repository or of CONTRIBUTING."""
    paths = [word for word in rest if word.startswith("tests/")]
    assert paths
    new = " ".join(blocks(CONTRIBUTING, "python"))
    assert all((ROOT / path).exists() or f"# {path}\n" in new for path in paths), paths
    assert {word for word in rest if word not in paths} <= {"-m", "slow", "gpu", "-s"}


def some_ranks(rest: list[str]) -> None:
    assert rest[:4] == ["--nproc-per-node", rest[1], "-m", "maskedclip.pretrain"]
    read_config("", None, RECIPE, rest[4:])


def a_bench(rest: list[str]) -> None:
    name, *flags = rest
    text = (ROOT / "tools" / "bench.py").read_text()
    assert f'"{name}": (' in text
    known = text[text.index(f'"{name}": (') :].splitlines()[0]
    assert all(flag == "--json" or f'"{flag[2:].split("=")[0]}"' in known for flag in flags)


PROGRAMS: dict[str, Callable[[list[str]], object]] = {
    "launchers/submit_pretrain.py": lambda rest: read_config("", LaunchConfig(), RECIPE, rest),
    "launchers/submit_ablation.py": lambda rest: read_ablation("", rest),
    "launchers/submit_finetune.py": a_study,
    "launchers/submit_sweep.py": lambda rest: read_sweep("", rest),
    "tools/make_shards.py": a_dataset,
    "tools/check_shards.py": check_shards,
    "tools/make_splits.py": lambda rest: SPLITS.parse(rest).config(),
    "tools/plan.py": lambda rest: read_config("", PlanConfig(), RECIPE, rest),
    "tools/doctor.py": lambda rest: read_config("", DoctorConfig(), RECIPE, rest),
    "tools/prefetch.py": lambda rest: read_config("", PrefetchConfig(), RECIPE, rest),
    "tools/torture.py": lambda rest: TORTURE.parse(rest).config(),
    "tools/convert_weights.py": lambda rest: CONVERT.parse(rest).config(),
    "tools/export_weights.py": lambda rest: EXPORT.parse(rest).config(),
    "tools/bench.py": a_bench,
    "maskedclip.pretrain": lambda rest: read_config("", None, RECIPE, rest),
    "maskedclip.finetune": lambda rest: finetune_line("paper").parse(rest).config(),
    "maskedclip.evaluate": lambda rest: EVALUATE.parse(rest).config(),
    "maskedclip.report": lambda rest: REPORT.parse(rest).config(),
    "maskedclip.explain": lambda rest: EXPLAIN.parse(rest).config(),
    "maskedclip.predict": lambda rest: PREDICT.parse(rest).config(),
    "maskedclip.slurm": lambda rest: SLURM.parse(rest).config(),
    "maskedclip.compare": COMPARE.parse,
}


def program_of(line: str) -> tuple[Callable[[list[str]], object] | None, list[str]]:
    """Return what reads the line's words, and these; None where nothing here knows it."""
    words = words_of(line)
    if words[0] == "python" and words[1] == "-m":
        return PROGRAMS.get(words[2]), words[3:]
    if words[0] == "python":
        return PROGRAMS.get(words[1]), words[2:]
    return {"pytest": some_tests, "torchrun": some_ranks}.get(words[0]), words[1:]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the card of CONTRIBUTING.md, as its reader has it."""
    (tmp_path / "my_clinic.toml").write_text(blocks(CONTRIBUTING, "toml")[0])
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("page", "line"), LINES, ids=[f"{name_of(page)}: {line}" for page, line in LINES]
)
def test_a_line_of_the_pages_is_one_that_its_program_takes(page: Path, line: str):
    if line.split("    #")[0].rstrip() in SHELL:
        return
    read, rest = program_of(line)
    assert read is not None, f"{name_of(page)}: nothing here tests {line!r}"
    if rest == ["--help"]:
        return
    if page == CONTRIBUTING:
        rest = [word for word in rest if not word.startswith(NEW_FLAGS)]
        if rest and rest[0] in NEW_RECIPES:
            assert rest[0] not in RECIPES
            rest = rest[1:]
    read(rest)


def test_the_first_two_blocks_of_the_readme_are_those_that_ci_runs():
    first, second, *_ = blocks(ROOT / "README.md", "bash")
    assert first.splitlines()[-2:] == [
        "pip install -e .",
        "python launchers/submit_pretrain.py demo",
    ]
    assert second.splitlines()[-1] == "tools/check"


@pytest.mark.parametrize("line", ["python tools/make_shards.py idird", "python tools/nothing.py"])
def test_a_wrong_line_is_noticed(line: str):
    read, rest = program_of(line)
    if read is not None:
        with pytest.raises(ValueError, match="did you mean idrid"):
            read(rest)
    else:
        assert not (ROOT / line.split()[1]).exists()
