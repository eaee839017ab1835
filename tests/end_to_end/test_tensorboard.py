"""TensorBoard's dashboards show a real run in a browser, without an error in its console."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from maskedclip.config import FinetuneConfig, override
from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune.loop import finetune
from maskedclip.pretrain.loop import pretrain
from tests.chromium import needs_chromium
from tests.conftest import a_small_run
from tools.benches.browser import Browser, wait_for_server

pytestmark = [pytest.mark.browser, needs_chromium]
# the text of a page, also of elements with a tree of their own
TEXT = """(function deep(node) {
  let text = '';
  const page = node.contentDocument && node.contentDocument.body;
  const own = node.shadowRoot ? node.shadowRoot.childNodes : page ? [page] : [];
  for (const child of [...node.childNodes, ...own]) {
    if (child.nodeType === 3) text += child.data + ' ';
    else if (child.nodeType === 1 && !['STYLE', 'SCRIPT'].includes(child.tagName))
      text += deep(child);
  }
  return text;
})(document.body || document.createElement('p')).replace(/\\s+/g, ' ')"""
DASHBOARDS = {  # what stands on a dashboard that shows what it should
    "timeseries": ("fine-tuning", "losses", "small"),
    "scalars": ("losses", "throughput", "probe"),
    "custom_scalars": ("terms", "gradient norm"),
    "images": ("heldout diabetic_retinopathy/confusion", "fixed_samples"),
    "text": ("about/config", "optim.betas"),
    "pr_curves": ("heldout diabetic_retinopathy/0", "small/results/"),
    "hparams": ("Trial ID", "fraction", "logistic", "finetune", "auroc_low"),
    "projector": ("Points: 60", "Dimension: 128"),
}


class Board(NamedTuple):
    address: str
    browser: Browser
    pictures: Path


@pytest.fixture(scope="module")
def board(phantoms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """Pre-train, evaluate and fine-tune for a few steps, and start TensorBoard on the runs."""
    root = tmp_path_factory.mktemp("board")
    shown = {"log.images": True, "log.probe": str(phantoms["heldout"])}
    run = pretrain(override(a_small_run(phantoms, root), shown))
    evaluate(
        run, [(phantoms["heldout"], "")], ("logistic",), run, threads=0, fractions=(0.5, 1.0)
    )  # fmt: skip
    tuned = FinetuneConfig(
        weights=str(run), dataset=str(phantoms["heldout"]), out=str(root / "runs"), epochs=2,
        warmup_epochs=1, threads=0,
    )  # fmt: skip
    for seed in (0, 1):
        finetune(replace(tuned, seed=seed))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "tensorboard.main", "--logdir", str(root / "runs"), "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_server(port)
        with Browser() as browser:
            yield Board(f"http://127.0.0.1:{port}", browser, root)
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_a_dashboard_shows_the_run_and_the_console_has_no_error(
    board: Board, dashboard: str
) -> None:
    board.browser.open(f"{board.address}/?of={dashboard}#{dashboard}")
    try:
        for words in DASHBOARDS[dashboard]:
            board.browser.wait_for(f"({TEXT}).includes({words!r})", 60.0)
    finally:
        board.browser.picture(board.pictures / f"{dashboard}.png")
    assert board.browser.errors == []


def test_the_table_of_hyperparameters_has_a_row_for_each_evaluation(board: Board) -> None:
    """As TensorBoard's own server counts them: two probes, two fine-tunings."""
    board.browser.open(f"{board.address}/data/environment")
    asked = """fetch('/data/plugin/hparams/session_groups', {method: 'POST', body: JSON.stringify({
      sliceSize: 100, allowedStatuses: ['STATUS_SUCCESS', 'STATUS_UNKNOWN'], colParams: []})})
      .then(answer => answer.json()).then(found => {window.found = found})"""
    board.browser.evaluate(f"void {asked}")
    found = board.browser.wait_for("window.found")
    assert len(found["sessionGroups"]) == found["totalSize"] == 4
    assert all(len(group["metricValues"]) >= 3 for group in found["sessionGroups"])
    rates = [group["hparams"].get("lr") for group in found["sessionGroups"]]
    assert sorted(rates, key=str) == [0.0005, 0.0005, None, None]
