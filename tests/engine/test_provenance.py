"""A run's directory is held to its data: another manifest or another exclude.csv is other data."""

import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from maskedclip.engine.provenance import check_data, provenance, record


def manifest_sha256(directory: Path) -> str:
    return hashlib.sha256((directory / "manifest.json").read_bytes()).hexdigest()


def directory(path: Path, manifest: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text(manifest)
    return path


def test_the_same_data_are_taken_wherever_they_lie(tmp_path: Path) -> None:
    datasets = [directory(tmp_path / name, name) for name in "ab"]
    (datasets[1] / "exclude.csv").write_text("key,reason,copy_of\n")
    path = tmp_path / "provenance.json"
    check_data(path, datasets, manifest_sha256)  # a run that has not begun has no data
    record(provenance(datasets, 0, 1, manifest_sha256), path)
    check_data(path, datasets, manifest_sha256)
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in datasets]
    check_data(path, moved, manifest_sha256)


def test_a_changed_list_of_exclusions_is_other_data(tmp_path: Path) -> None:
    data, path = directory(tmp_path / "data", "one"), tmp_path / "run" / "provenance.json"
    path.parent.mkdir()
    record(provenance([data], 0, 1, manifest_sha256), path)
    (data / "exclude.csv").write_text("key,reason,copy_of\n")
    with pytest.raises(ValueError, match=r"read .*data with another exclude\.csv; choose another"):
        check_data(path, [data], manifest_sha256)
    record(provenance([data], 0, 1, manifest_sha256), path)
    check_data(path, [data], manifest_sha256)
    (data / "exclude.csv").unlink()
    with pytest.raises(ValueError, match=r"another exclude\.csv"):
        check_data(path, [data], manifest_sha256)


def test_another_manifest_is_other_data(tmp_path: Path) -> None:
    data, path = directory(tmp_path / "data", "one"), tmp_path / "provenance.json"
    record(provenance([data], 0, 1, manifest_sha256), path)
    directory(data, "two")
    with pytest.raises(ValueError, match=r"another manifest\.json"):
        check_data(path, [data], manifest_sha256)


def test_versions_are_read_from_the_installed_packages_and_no_pip_is_started() -> None:
    code = (
        "import sys; started = []\n"
        "sys.addaudithook(lambda event, given: event in ('subprocess.Popen', 'os.system')\n"
        "    and started.append(given[1][0] if event == 'subprocess.Popen' else given[0]))\n"
        "from maskedclip.engine.provenance import provenance\n"
        "facts = provenance([], 0, 1, str)\n"
        "print(sorted(set(started)), facts['packages'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip" not in done.stdout
    assert f"'torch': {version('torch')!r}" in done.stdout
