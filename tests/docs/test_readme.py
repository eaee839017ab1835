"""The README is true: its map, its links, its commands; the first two blocks are run by .ci/run."""

import re
import shlex
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
from maskedclip.plan.cost import PlanConfig
from maskedclip.recipes import RECIPES
from maskedclip.report.command import REPORT
from maskedclip.shards.check_command import parse as check_shards
from maskedclip.shards.make_command import parse as make_shards
from maskedclip.shards.splits_command import SPLITS
from maskedclip.slurm import SLURM
from maskedclip.weights.convert import CONVERT
from maskedclip.weights.export import EXPORT
from maskedclip.weights.prefetch import PrefetchConfig

ROOT = Path(__file__).parents[2]
MAP_PAGE = (ROOT / "docs" / "map.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = re.findall(r"^\| (`.*?`) \|", MAP_PAGE, flags=re.MULTILINE)
MAP = [name for row in ROWS for name in re.findall(r"`([\w./*]+)`", row)]  # with * for a family
RECIPE = "maskedclip_vitl"
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


def a_study(rest):
    given = study_line("paper").parse(rest)
    parse_study(given)
    given.config(2)


PROGRAMS = {
    "launchers/submit_pretrain.py": lambda rest: read_config("", LaunchConfig(), RECIPE, rest),
    "maskedclip.pretrain": lambda rest: read_config("", None, RECIPE, rest),
    "tools/plan.py": lambda rest: read_config("", PlanConfig(), RECIPE, rest),
    "tools/doctor.py": lambda rest: read_config("", DoctorConfig(), RECIPE, rest),
    "tools/prefetch.py": lambda rest: read_config("", PrefetchConfig(), RECIPE, rest),
    "launchers/submit_ablation.py": lambda rest: read_ablation("", rest),
    "launchers/submit_finetune.py": a_study,
    "tools/make_shards.py": make_shards,
    "tools/check_shards.py": check_shards,
    "tools/make_splits.py": lambda rest: SPLITS.parse(rest).config(),
    "tools/convert_weights.py": lambda rest: CONVERT.parse(rest).config(),
    "tools/export_weights.py": lambda rest: EXPORT.parse(rest).config(),
    "maskedclip.finetune": lambda rest: finetune_line("paper").parse(rest).config(),
    "maskedclip.evaluate": lambda rest: EVALUATE.parse(rest).config(),
    "maskedclip.report": lambda rest: REPORT.parse(rest).config(),
    "maskedclip.explain": lambda rest: EXPLAIN.parse(rest).config(),
    "maskedclip.slurm": lambda rest: SLURM.parse(rest).config(),
    "maskedclip.compare": COMPARE.parse,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_is_one_that_its_program_takes(command):
    words = shlex.split(command)[1:]
    program, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if rest in (["--help"], ["--list"], ["-h"]) or "my_clinic.toml" in rest:
        return
    if program in PROGRAMS:
        PROGRAMS[program](rest)
    else:
        assert (ROOT / program).is_file()
