"""The README is true: its map, its links, its commands; the first two blocks are run by .ci/run."""

import re
import shlex
from pathlib import Path

import pytest

from maskedclip.command import read_config, read_flags
from maskedclip.config import FinetuneConfig, LaunchConfig, field_names, override
from maskedclip.doctor.examine import DoctorConfig
from maskedclip.explain.command import ExplainConfig
from maskedclip.finetune.command import EvaluateConfig
from maskedclip.finetune.recipes import finetune_recipe
from maskedclip.grid.ablation_command import read_ablation
from maskedclip.grid.study_command import StudyConfig
from maskedclip.recipes import RECIPES
from maskedclip.report.command import ReportConfig
from maskedclip.shards.make_command import parse
from maskedclip.slurm import StatusConfig
from maskedclip.weights.export import ExportConfig
from maskedclip.weights.prefetch import PrefetchConfig

ROOT = Path(__file__).parents[2]
MAP_PAGE = (ROOT / "docs" / "map.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = re.findall(r"^\| (`.*?`) \|", MAP_PAGE, flags=re.MULTILINE)
MAP = [name for row in ROWS for name in re.findall(r"`([\w./*]+)`", row)]  # with * for a family
VERBS = {
    "maskedclip.finetune": FinetuneConfig(),
    "maskedclip.evaluate": EvaluateConfig(),
    "maskedclip.report": ReportConfig(),
    "maskedclip.explain": ExplainConfig(),
    "tools/export_weights.py": ExportConfig(),
    "tools/doctor.py": DoctorConfig(),
    "tools/prefetch.py": PrefetchConfig(),
}
COMMANDS = [
    line.split("    #")[0].strip()
    for document in DOCUMENTS
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(), flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python ")
]


def test_the_map_names_files_that_are_there():
    assert len(MAP) > 15
    assert [name for name in MAP if not [*ROOT.glob(name)]] == []


def test_the_map_leaves_out_no_verb_launcher_or_tool():
    files = [*ROOT.glob("maskedclip/*.py"), *ROOT.glob("launchers/*"), *ROOT.glob("tools/*")]
    names = {str(path.relative_to(ROOT)) for path in files if path.is_file()}
    listed = {str(path.relative_to(ROOT)) for name in MAP for path in ROOT.glob(name)}
    assert names - {"maskedclip/__init__.py"} <= listed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\((?!https:)([^)#]+)\)", document.read_text()):
        assert (document.parent / link).exists(), link


def test_every_recipe_is_in_the_page_of_recipes():
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert [name for name in RECIPES if f"`{name}`" not in page] == []


def words_and_flags(rest, config):
    words, flags = read_flags(rest)
    override(config, flags)
    return words


def a_study(rest):
    weights, flags = read_flags(rest)
    assert len(weights) == 1
    ours = {name: flags.pop(name) for name in field_names(StudyConfig()) if name in flags}
    override(StudyConfig(), ours)
    override(finetune_recipe(ours.get("recipe", "paper")), flags)


def a_board(rest):
    command, _grid = words_and_flags(rest, StatusConfig())
    assert command in ("status", "retry", "cancel")


def a_comparison(rest):
    weights, flags = read_flags(rest)
    assert (len(weights), flags) == (2, {})


PROGRAMS = {
    "launchers/submit_pretrain.py": lambda rest: read_config(
        "", LaunchConfig(), "maskedclip_vitl", rest
    ),
    "launchers/submit_ablation.py": lambda rest: read_ablation("", rest),
    "launchers/submit_finetune.py": a_study,
    "tools/make_shards.py": parse,
    "maskedclip.slurm": a_board,
    "maskedclip.compare": a_comparison,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_is_one_that_its_program_takes(command):
    words = shlex.split(command)[1:]
    program, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if rest in (["--help"], ["--list"], ["-h"]):
        return
    if program in PROGRAMS:
        PROGRAMS[program](rest)
    elif program in VERBS:
        assert len(words_and_flags(rest, VERBS[program])) == 1
    else:
        assert (ROOT / program).is_file()
