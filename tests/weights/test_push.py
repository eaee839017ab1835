"""An export goes to a hub with its card and licence, and not without; the hub is a local one."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub.utils import validate_repo_id

from maskedclip.weights.export import main
from maskedclip.weights.push import check_push, files_of, push, state_licence
from tests.untrained import exported


class LocalHub(BaseHTTPRequestHandler):
    """What of the hub's interface an upload of small files uses; it keeps what it is sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kept, path = self.server.kept, self.path.split("?")[0]
        if self.headers.get("Authorization") != "Bearer hf_of_a_test":
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            kept["made"] = json.loads(body)
            return self.answer({"url": f"{self.server.address}/lab/retina"})
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            ways = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": name} | ways for name in names]})
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.address}/lab/retina/commit/abc"
            return self.answer({"commitUrl": url, "commitOid": "abc", "success": True})
        return self.answer({})

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Bearer hf_of_a_test":
            return self.answer({"error": "Repository not found"}, 404)
        facts = {"id": "lab/retina", "sha": "abc", "siblings": [], "private": True}
        return self.answer(facts)

    def answer(self, content: dict, code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), LocalHub)
    server.address, server.kept = f"http://127.0.0.1:{server.server_port}", {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)  # as HF_ENDPOINT does
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "subject"
    exported(path)
    return path


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    """An export as `--to timm --licence=cc-by-nc-4.0 --push=lab/retina --dry_run` leaves it."""
    words = ["--to=timm", "--push=lab/retina", "--licence=cc-by-nc-4.0", "--dry_run"]
    main([str(run), *words])
    return run / "export" / "timm"


def test_what_is_pushed_is_the_folder_to_the_byte(folder: Path, hub: ThreadingHTTPServer):
    address = push(folder, "lab/retina", public=False)
    assert address == f"{hub.address}/lab/retina/commit/abc"
    made = hub.kept.pop("made")
    assert made.get("visibility") == "private" or made.get("private") is True
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")}
    assert hub.kept == files
    assert "model.safetensors" in files


def test_the_card_states_the_licence(folder: Path):
    text = (folder / "README.md").read_text()
    assert 'license: "cc-by-nc-4.0"\n' in text
    assert "not-stated" not in text
    assert "states the licence `cc-by-nc-4.0` for the weights." in text


def test_a_dry_run_lists_the_files_and_sends_nothing(
    run: Path, hub: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    words = ["--to=timm", "--push=lab/retina", "--licence=apache-2.0", "--dry_run", "--public"]
    main([str(run), f"--out={out}", *words])
    text = capsys.readouterr().out
    assert "would be sent to lab/retina (public if it is new):" in text
    assert all(f"MB  {name}\n" in text for name in files_of(out))
    assert hub.kept == {}


def test_nothing_is_pushed_without_a_card_or_a_licence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = {
        "--push=lab/retina": "--push lab/retina: no licence; settle what the data",
        "--push=retina --licence=mit": "--push 'retina': write USER/NAME",
        "--push=lab/retina --licence=CC_BY": "--licence 'CC_BY': write the hub's identifier",
        "--push=lab/retina --licence=ccbync": "the hub's identifier is cc-by-nc-4.0",
        "--public": "--public and --dry_run are of --push=USER/NAME",
    }
    for words, message in flags.items():
        with pytest.raises(SystemExit) as ended:
            main([str(run), "--to=timm", f"--out={tmp_path / 'no'}", *words.split()])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    with pytest.raises(ValueError, match=r"has no README.md, the card"):
        push(tmp_path, "lab/retina", public=False)
    card = tmp_path / "README.md"
    card.write_text('---\nlicense: "other"\nlicense_name: "not-stated"\n---\n# x\n')
    with pytest.raises(ValueError, match="states no licence; give --licence"):
        push(tmp_path, "lab/retina", public=False)
    state_licence(tmp_path, "mit")
    assert files_of(tmp_path) == ["README.md"]


def test_a_hub_that_refuses_is_said_in_one_line(
    folder: Path, hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RuntimeError, match="lab/retina: the hub does not take it") as caught:
        push(folder, "lab/retina", public=False)
    assert "\n" not in str(caught.value)
    assert hub.kept == {}


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "no token of the hub here; run `hf auth login`"), ("hf_wrong", "the hub does not take")],
)
def test_without_a_token_that_the_hub_knows_nothing_is_exported(
    run: Path, hub: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], token: str, message: str,
):  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main([str(run), "--to=timm", f"--out={out}", "--push=lab/retina", "--licence=mit"])
    assert ended.value.code == 2
    assert f"lab/retina: {message}" in capsys.readouterr().err
    assert not out.exists()
    assert hub.kept == {}


@pytest.mark.parametrize("name", ["lab/a..b", "lab/a--b", "lab/-a", "lab/a.git", "lab/b-", "lab/é"])
def test_a_repository_that_the_hub_has_no_form_of_is_refused(name: str):
    with pytest.raises(ValueError, match="write USER/NAME, a repository of the hub"):
        check_push(name, "mit")
    with pytest.raises(ValueError, match=r".*"):  # of huggingface_hub, which would say it later
        validate_repo_id(name)


@pytest.mark.parametrize("name", ["lab/retina", "lab-1/a.b_c-d", "a/b", "_a/_b"])
def test_a_repository_of_the_hubs_form_is_taken(name: str):
    validate_repo_id(name)
    check_push(name, "mit")
