"""A run whose shards are copied to the node's own disk is the run without."""

from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from tests.pretrain.test_pretrain import losses, stopped_after


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "node").mkdir()
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    return tmp_path / "node"


def test_a_staged_run_that_was_stopped_and_whose_copies_were_damaged_has_the_same_weights(
    small: Config, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = pretrain(override(small, {"out": str(tmp_path / "alone")}))
    staged = override(small, {"data.stage": "$SLURM_TMPDIR", "data.threads": 2})
    stopped_after(staged, 3, monkeypatch)
    for path in node.glob("*/*.tar"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    run = pretrain(staged)
    assert losses(run) == losses(alone)
    for name in ("encoder.safetensors", "model.safetensors"):
        assert (run / name).read_bytes() == (alone / name).read_bytes()
    assert list(node.iterdir()) == []  # it has ended, and removed its copies
    assert not (run / "lost_samples.jsonl").exists() or not (run / "lost_samples.jsonl").read_text()


def test_a_run_goes_on_with_and_without_a_stage(
    small: Config, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(override(small, {"data.stage": str(node)}), 3, monkeypatch)
    run = pretrain(small)
    assert [row[0] for row in losses(run)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["", "scratch", "~/x"])
def test_a_stage_that_is_no_path_of_a_node_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"data\.stage .*--data\.stage='\$SLURM_TMPDIR'"):
        override(Config(), {"data.stage": text})
