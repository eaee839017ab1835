"""What pip installs: the package with its data, and nothing that only a checkout has."""

import configparser
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_file_of_the_package_that_is_no_module_is_package_data() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, listed in settings["options.package_data"].items()
        for pattern in listed.split()
    ]
    files = [
        p.relative_to(ROOT).as_posix() for p in (ROOT / "maskedclip").rglob("*") if p.is_file()
    ]
    data = [file for file in files if not file.endswith((".py", ".pyc"))]
    assert "maskedclip/shards/cards/eyepacs.toml" in data
    assert [f for f in data if not any(fnmatch(f, pattern) for pattern in patterns)] == []


@pytest.mark.slow
def test_an_installed_package_lists_every_card_from_any_folder(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):  # a copy: building leaves folders beside the sources
        if (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(tmp_path / "source")], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import maskedclip;"
        f"assert maskedclip.__file__.startswith({str(target)!r});"
        "from maskedclip.shards.make_command import main; main(['--list'])"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    for card in (ROOT / "maskedclip" / "shards" / "cards").glob("*.toml"):
        assert f"\n{card.stem}: " in f"\n{listed}"
