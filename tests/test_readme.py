"""The README is true: its map, its links, its commands; the first two blocks are run by .ci/run."""

import re
import shlex
from pathlib import Path

import pytest

from maskedclip.command import read_config, read_flags
from maskedclip.config import FinetuneConfig, LaunchConfig, field_names, override
from maskedclip.downstream_command import EvaluateConfig
from maskedclip.explain_command import ExplainConfig
from maskedclip.finetune_recipes import finetune_recipe
from maskedclip.make_shards_command import parse
from maskedclip.recipes import RECIPES
from maskedclip.report_command import ReportConfig
from maskedclip.study_command import StudyConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAP = re.findall(r"^\| `([\w./]+)` \|", README[README.index("## The map") :], flags=re.MULTILINE)
VERBS = {
    "maskedclip.finetune": FinetuneConfig(),
    "maskedclip.evaluate": EvaluateConfig(),
    "maskedclip.report": ReportConfig(),
    "maskedclip.explain": ExplainConfig(),
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
    assert [name for name in MAP if not (ROOT / name).exists()] == []


def test_the_map_leaves_out_no_verb_launcher_or_tool():
    files = [*ROOT.glob("maskedclip/*.py"), *ROOT.glob("launchers/*"), *ROOT.glob("tools/*")]
    names = {str(path.relative_to(ROOT)) for path in files if path.is_file()}
    assert names - {"maskedclip/__init__.py"} <= set(MAP)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert (document.parent / link).exists(), link


def test_every_recipe_is_in_the_readme():
    for name in RECIPES:
        assert f"`{name}`" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_is_one_that_its_program_takes(command):
    words = shlex.split(command)[1:]
    program, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if rest in (["--help"], ["--list"], ["-h"]):
        return
    if program == "launchers/submit_pretrain.py":
        read_config("", LaunchConfig(), "maskedclip_vitl", rest)
    elif program == "tools/make_shards.py":
        parse(rest)
    elif program == "launchers/submit_finetune.py":
        weights, flags = read_flags(rest)
        assert len(weights) == 1
        ours = {name: flags.pop(name) for name in field_names(StudyConfig()) if name in flags}
        override(StudyConfig(), ours)
        override(finetune_recipe(ours.get("recipe", "paper")), flags)
    elif program == "maskedclip.compare":
        weights, flags = read_flags(rest)
        assert (len(weights), flags) == (2, {})
    elif program in VERBS:
        weights, flags = read_flags(rest)
        assert len(weights) == 1
        override(VERBS[program], flags)
    else:
        assert (ROOT / program).is_file()
