"""What the pages name is there: files, links, recipes, fields; the map leaves out nothing."""

import re
from pathlib import Path

import pytest

from maskedclip.config import Config, FinetuneConfig, LaunchConfig, field_names
from maskedclip.recipes import RECIPES
from tests.docs.pages import PAGES, README, ROOT, name_of, outside_blocks

MAP = re.findall(r"^\| `([\w./]+)` \|", (ROOT / "docs" / "map.md").read_text(), re.MULTILINE)
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_the_readme_fits_two_screens():
    assert len(README.read_text().splitlines()) <= 140


def test_the_map_names_files_that_are_there():
    assert len(MAP) > 15
    assert [name for name in MAP if not (ROOT / name).exists()] == []


def test_the_map_leaves_out_no_package_module_launcher_tool_or_page():
    files = [
        *(path for path in ROOT.glob("maskedclip/*/") if (path / "__init__.py").is_file()),
        *ROOT.glob("maskedclip/*.py"),
        *(path for path in ROOT.glob("launchers/*") if path.is_file()),
        *(path for path in ROOT.glob("tools/*") if path.is_file()),
        *ROOT.glob("tools/benches/*.py"),
        *ROOT.glob("docs/*.md"),
    ]
    names = {path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "") for path in files}
    unlisted = {"maskedclip/__init__.py", "tools/benches/__init__.py"}
    assert names - unlisted - set(MAP) == set()


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


@every_page
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\((?!https:)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@every_page
def test_paths_of_the_repository_are_right(page: Path):
    if page.name == "lab_notes.md":  # dated: what was there then
        return
    named = re.findall(
        r"`((?:maskedclip|tests|tools|launchers|docs)/[\w./-]*\w/?)", page.read_text()
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


@every_page
def test_commands_stand_in_blocks_that_are_tested(page: Path):
    started = r"^ {4,}(?:python|torchrun|pytest|pip|tools/|launchers/|tensorboard|make)\b.*"
    assert re.findall(started, outside_blocks(page), re.MULTILINE) == []


def test_every_recipe_is_in_the_page_of_recipes():
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert [name for name in RECIPES if f"`{name}`" not in page] == []


@every_page
def test_fields_that_a_page_names_are_fields(page: Path):
    sections = "data|model|loss|dino|optim|engine|after|finetune"
    named = set(re.findall(rf"`(?:--)?((?:{sections})\.\w+)(?:=[^`]*)?`", page.read_text()))
    known = {*field_names(Config()), *field_names(LaunchConfig())}
    known |= {f"finetune.{name}" for name in field_names(FinetuneConfig())}
    assert named - known - {"model.safetensors"} == set()
