"""What runs for a contributor: the checks, the hooks, the workflow, the Makefile."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def said(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("script", ["tools/check", ".ci/run"])
def test_a_script_is_one_that_bash_reads_and_names_a_part_that_it_lacks(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert said("bash", "-n", script) == (0, "")
    code, message = said(script, "nonsense")
    assert code == 2
    assert message.startswith(f"{script}: no part nonsense; use ")


def test_the_workflow_runs_the_parts_of_the_checks_and_no_list_of_its_own() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    ours = [line.split() for line in lines if line.startswith(("tools/check", ".ci/run"))]
    assert [".ci/run"] in ours
    parts = re.findall(r"^(\w+)\(\) \{", (ROOT / "tools" / "check").read_text(), re.MULTILINE)
    assert [part for line in ours for part in line[1:]] == parts
    rest = [line for line in lines if not line.startswith(("tools/check", ".ci/run"))]
    assert all(line.startswith(("pip install -e ", "git config ")) for line in rest), rest


def test_the_hooks_call_installed_tools_alone() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "tools/check", "pytest"}
    for path in re.findall(r"tests/[\w/.]+", " ".join(hook["entry"] for hook in hooks)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("target", ["test", "lint", "bench", "docs"])
def test_make_knows_the_target(target: str) -> None:
    text = (ROOT / "Makefile").read_text()
    assert len(text.splitlines()) == 5
    (line,) = re.findall(rf"^{target}: ; (.+)$", text, re.MULTILINE)
    program = line.split()[1] if line.startswith("python ") else line.split()[0]
    assert program == "pytest" or (ROOT / program).is_file()


def test_the_forms_for_issues_are_forms() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "dataset"]
    for form in forms:
        fields = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= fields.keys()
        assert all({"type", "attributes"} <= field.keys() for field in fields["body"])
