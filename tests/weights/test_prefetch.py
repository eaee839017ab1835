"""What a run reads from a hub is fetched, verified offline, and missed in one line."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import BertConfig, BertModel

from maskedclip.config import Config, override
from maskedclip.models.pretrained import export, load_encoder
from maskedclip.models.text import check_text
from maskedclip.recipes import demo, maskedclip_vitl
from maskedclip.weights import prefetch_child
from maskedclip.weights.prefetch import Need, PrefetchConfig, holds, hub_folder, needs, prefetch

ROOT = Path(__file__).parents[2]
NAME = "nobody/tiny-bert"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "retina", "with", "drusen")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole BERT, as transformers saves it."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(WORDS), hidden_size=16, **shape)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def lay_out(bert: Path, home: Path) -> Path:
    """Lay a BERT out as huggingface_hub does: blobs, and a snapshot of links to them."""
    model = home / "hub" / f"models--{NAME.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0" * 40)
    (model / "blobs").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(bert.iterdir())):
        shutil.copy(file, model / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    return model


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub at a port where nobody answers."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "home"


class Hub(BaseHTTPRequestHandler):
    """The few answers of a hub that fetching a model asks for; files are those of `folder`."""

    folder: Path
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, with_body: bool) -> None:
        self.asked.append(self.path)
        body, commit, kind = b"", "1" * 40, "application/octet-stream"
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}"):
            kind, files = "application/json", [f.name for f in sorted(self.folder.iterdir())]
            if "/tree/" in path:
                answer: object = [
                    {"type": "file", "path": f, "oid": f, "size": (self.folder / f).stat().st_size}
                    for f in files
                ]
            else:
                siblings = [{"rfilename": file} for file in files]
                answer = {"id": NAME, "sha": commit, "siblings": siblings}
            body = json.dumps(answer).encode()
        elif path.startswith(f"/{NAME}/resolve/"):
            body = (self.folder / path.rpartition("/")[2]).read_bytes()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(bert: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a hub with the tiny BERT, and weights for others beside it."""
    Hub.folder = tmp_path / "repository"
    shutil.copytree(bert, Hub.folder)
    for other in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"):
        (Hub.folder / other).write_bytes(bytes(1000))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def wants(text: str = "builtin", begin: str = "") -> Config:
    return override(demo(), {"model.text": text, "init_from": begin})


def run_command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/prefetch.py", *words]
    variables = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )


def test_a_recipe_with_nothing_of_a_hub_says_so():
    message = prefetch(demo(), "demo", PrefetchConfig())
    assert message.startswith("demo: nothing to fetch")
    assert message.endswith("next: python launchers/submit_pretrain.py demo\n")


def test_a_run_needs_its_text_tower_and_its_first_weights():
    config = override(maskedclip_vitl(), {"init_from": "mae.pth"})
    wanted = [("model.text", "emilyalsentzer/Bio_ClinicalBERT"), ("init_from", "mae.pth")]
    assert needs(config) == wanted
    assert not needs(demo())


def test_the_cache_folder_is_the_one_that_huggingface_hub_uses():
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    for variables in (
        {"HOME": "/a"},
        {"HOME": "/a", "XDG_CACHE_HOME": "/b"},
        {"HOME": "/a", "HF_HOME": "/c", "XDG_CACHE_HOME": "/b"},
        {"HOME": "/a", "HF_HOME": "/c", "HF_HUB_CACHE": "/d/e"},
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
        )
        ours = str(hub_folder(variables)).replace(str(Path.home()), "/a")
        assert ours == done.stdout.strip()


def test_a_cache_laid_out_by_the_hub_is_whole_only_with_all_of_its_files(
    bert: Path, tmp_path: Path
):
    need, hub = Need("model.text", NAME), tmp_path / "hub"
    assert not holds(need, hub)
    model = lay_out(bert, tmp_path)
    assert holds(need, hub)
    for blob in (model / "blobs").iterdir():
        content = blob.read_bytes()
        blob.unlink()  # its link is in the snapshot, and leads nowhere
        needed = [path.name for path in (model / "snapshots").rglob("*") if not path.exists()]
        assert not holds(need, hub), needed
        blob.write_bytes(content)
    assert holds(need, hub)


def test_what_is_there_already_is_loaded_offline_and_said_with_the_lines_a_job_needs(
    bert: Path, unreachable: Path
):
    cache = unreachable.parent / "for nodes"
    model = lay_out(bert, cache)
    # under a name of its own: where the README was followed, there is a run called demo
    words = ("demo", "--name=fetched", f"--model.text={NAME}")
    done = run_command(*words, "--cache", str(cache))
    assert done.returncode == 0, done.stderr
    assert "already there" in done.stdout
    assert "loads offline (" in done.stdout
    assert "6 tokens of 'a retina'" not in done.stdout  # [CLS] a retina [SEP]
    assert "4 tokens of 'a retina'" in done.stdout
    assert str(model) in done.stdout
    assert f"export HF_HOME='{cache}'" in done.stdout
    assert "export HF_HUB_OFFLINE=1" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last == f"next: python launchers/submit_pretrain.py {' '.join(words)}"


@pytest.mark.slow
def test_a_tower_is_fetched_without_the_weights_of_other_frameworks_and_loaded_offline(
    hub: str, unreachable: Path
):
    done = run_command("demo", f"--model.text={NAME}", HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    assert ": fetched in " in done.stdout
    assert "loads offline (" in done.stdout
    assert f"export HF_HOME={unreachable}" in done.stdout
    assert holds(Need("model.text", NAME), unreachable / "hub")
    fetched = {path.name for path in unreachable.rglob("snapshots/*/*")}
    assert fetched == {"config.json", "vocab.txt", "model.safetensors"}


def test_weights_by_timms_name_are_looked_for_where_timm_has_them(tmp_path: Path):
    need = Need("init_from", "vit_small_patch16_224.augreg_in21k")
    assert need.repository == "timm/vit_small_patch16_224.augreg_in21k"
    snapshot = need.folder(tmp_path) / "snapshots" / "1"
    assert snapshot.parts[-3] == "models--timm--vit_small_patch16_224.augreg_in21k"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert not holds(need, tmp_path)
    (snapshot / "model.safetensors").write_bytes(b"x")
    assert holds(need, tmp_path)
    assert Need("init_from", "facebook/dino").repository == "facebook/dino"


def test_weights_that_are_only_pickles_are_fetched_for_init_from(hub: str, unreachable: Path):
    (Hub.folder / "model.safetensors").unlink()
    (Hub.folder / "weights.pth").write_bytes(bytes(100))
    command = [
        sys.executable,
        "-m",
        "maskedclip.weights.prefetch_child",
        "fetch",
        "init_from",
        NAME,
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "HF_ENDPOINT": hub}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    fetched = {path.name for path in Path(done.stdout.split()[-1]).iterdir()}
    assert fetched == {"config.json", "vocab.txt", "weights.pth", "pytorch_model.bin"}
    assert holds(Need("init_from", NAME), unreachable / "hub")


def test_first_weights_are_loaded_as_an_encoder(tmp_path: Path):
    network, _ = load_encoder("random", size="micro", image_size=32)
    weights = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    export(weights, {"size": "micro", "image_size": 32, "patch_size": 16}, tmp_path)
    file = str(tmp_path / "encoder.safetensors")
    assert holds(Need("init_from", file))
    assert "tensors loaded" in prefetch_child.load("init_from", file)


def test_a_name_that_the_hub_does_not_have_ends_in_one_line(hub: str, unreachable: Path):
    done = run_command("--model.text=nobody/other", HF_ENDPOINT=hub)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert "model.text nobody/other does not fetch: " in done.stderr
    assert "404" in done.stderr
    assert not unreachable.exists() or not holds(Need("model.text", NAME), unreachable / "hub")


def test_a_local_folder_needs_no_hub(bert: Path):
    assert holds(Need("model.text", str(bert)))
    assert "4 tokens" in prefetch_child.load("model.text", str(bert))


def test_a_hub_that_cannot_be_reached_ends_in_one_line_with_what_to_copy(unreachable: Path):
    done = run_command(f"--model.text={NAME}")
    assert done.returncode == 2
    counted, line = done.stderr.splitlines()
    assert counted == f"1 of 1: model.text {NAME}"
    assert "127.0.0.1 cannot be reached (Connection refused)" in line
    assert f"{unreachable}/hub/models--nobody--tiny-bert" in line


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(
    ("config", "words"),
    [
        (wants(begin="weights/mae.pth"), "init_from weights/mae.pth: is no such file"),
        (wants("/no/such/folder"), "model.text /no/such/folder: is no such file or folder"),
        (wants(str(ROOT / "docs")), "docs: holds no whole BERT"),
    ],
)
def test_a_file_or_folder_that_does_not_serve_is_not_asked_of_the_hub(config: Config, words: str):
    with pytest.raises(ValueError, match=words) as error:
        prefetch(config, "demo", PrefetchConfig())
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unreachable")
def test_a_machine_that_may_not_use_the_network_is_told_which_variable_forbids_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="unset HF_HUB_OFFLINE"):
        prefetch(wants(NAME), "demo", PrefetchConfig())


@pytest.mark.slow  # a process more that loads transformers
def test_weights_that_do_not_load_are_told_with_the_reason(bert: Path, unreachable: Path):
    model = lay_out(bert, unreachable)
    (snapshot,) = (model / "snapshots").iterdir()
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").write_bytes(b"half of it")
    with pytest.raises(RuntimeError, match="does not load") as error:
        prefetch(wants(NAME), "demo", PrefetchConfig())
    assert "\n" not in str(error.value)


def test_a_run_without_its_text_tower_says_the_command_that_fetches_it():
    with pytest.raises(ValueError, match="is not on this machine") as error:
        check_text("nobody/no-bert")
    assert "python tools/prefetch.py --model.text=nobody/no-bert" in str(error.value)
    assert "\n" not in str(error.value)
