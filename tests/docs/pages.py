"""The pages of the documentation, and the blocks and commands that stand in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
SHARDS = ROOT / "shards" / "README.md"
PAGES = [README, CONTRIBUTING, SHARDS, *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def outside_blocks(page: Path) -> str:
    return _BLOCK.sub("", page.read_text())


def commands(page: Path) -> list[str]:
    """Return the lines of all bash blocks, continued lines as one, without comments."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def words_of(command: str) -> list[str]:
    return shlex.split(command, comments=True)
