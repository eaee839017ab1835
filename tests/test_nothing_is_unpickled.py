"""By the syntax tree: no file of the package, its tools and launchers calls what it reads."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("maskedclip", "tools", "launchers")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent != ROOT / "tools" / "tortures"  # makes hostile files, and reads what it made
)
# where a pickle is read: by stand-ins; that of --i_trust_this_file, in a process of its own
INDEX, CHILD = "maskedclip/engine/checkpoint_metadata.py", "maskedclip/weights/convert_child.py"
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "__import__"}  # of Python; model.eval() is another
ATTRIBUTES = ("jit.load", "hub.load", "yaml.load", "yaml.unsafe_load", "extractall")


def faults(code: str) -> list[str]:
    """Return the lines of a file that could run what is read."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # an exception reads nothing
            names = (
                [node.module or ""] if {a.name for a in node.names} != {"UnpicklingError"} else []
            )
        if any(name.split(".")[0] in UNPICKLERS for name in names):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and not _is_safe(node):
            found.append(ast.unparse(node))
    return found


def _is_safe(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in CALLS or given.get("trust_remote_code") == "True":
        return False
    if any(name == a or name.endswith(f".{a}") for a in ATTRIBUTES):
        return False
    if name == "torch.load":
        return given.get("weights_only") == "True" and "pickle_module" not in given
    if name in ("dcp.load", "dcp.load_state_dict"):
        return (
            given.get("storage_reader", "")[:7] == "Reader(" and given.get("planner") == "Planner()"
        )
    return "allow_pickle" not in given or given["allow_pickle"] == "False"


def test_no_file_can_run_what_it_reads() -> None:
    found = {str(path.relative_to(ROOT)): faults(path.read_text()) for path in FILES}
    assert {name for name, lines in found.items() if lines} == {INDEX, CHILD}


def test_the_two_files_that_read_pickles_choose_what_a_name_becomes() -> None:
    for file in (INDEX, CHILD):
        classes = [
            n for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.ClassDef)
        ]
        (reader,) = [c for c in classes if any("pickle." in ast.unparse(b) for b in c.bases)]
        assert "find_class" in {n.name for n in reader.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import torch; torch.load('x')",
        "torch.load('x', weights_only=False)", "torch.load('x', weights_only=safe)",
        "torch.jit.load('x')", "np.load('x', allow_pickle=True)", "dcp.load(state)",
        "dcp.load(state, storage_reader=dcp.FileSystemReader(p), planner=Planner())",
        "torch.hub.load('x', 'y')", "yaml.load(x)", "eval(x)", "tar.extractall()",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)  # fmt: skip
def test_what_could_run_something_is_seen(code: str) -> None:
    assert faults(code)


def test_checkpoints_are_loaded_in_one_place() -> None:
    files = [path.name for path in FILES if "dcp.load(" in path.read_text()]
    assert files == ["checkpoint.py"]
