"""The attentive probe attends as written out, learns what a mean hides, and keeps its memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate import token_store
from maskedclip.evaluate.attentive_probe import DECAYS, RATES, Standard, _first, attentive
from maskedclip.evaluate.features import PATCHES, Ensemble, FrozenEncoder, features
from maskedclip.evaluate.protocols import evaluate
from maskedclip.evaluate.several import run_all
from maskedclip.evaluate.token_store import TokenStore
from maskedclip.finetune.command import EvaluateConfig
from maskedclip.metrics.probes import Probe, logistic
from maskedclip.metrics.scores import macro
from tests.colours import two_colours
from tests.models.stand_ins import write_stand_ins
from tests.untrained import exported

WIDTH, PATCHES_OF_ONE = 64, 16


def marked_tokens(images: int = 600) -> tuple[Tensor, np.ndarray]:
    """Tokens of which two marked ones tell the class, in a channel where the others are loud."""
    generator = torch.Generator().manual_seed(0)
    token_BND = torch.randn(images, PATCHES_OF_ONE, WIDTH, generator=generator)
    token_BND[:, :, 1] *= 4
    label_B = np.arange(images) % 2
    for image, label in enumerate(label_B):
        marked = torch.randperm(PATCHES_OF_ONE, generator=generator)[:2]
        token_BND[image, marked, :2] = torch.tensor([8.0, 4.0 if label else -4.0])
    return token_BND, label_B


def probed(token_BND: Tensor, label_B: np.ndarray, seed: int = 0) -> Probe:
    numbers = np.arange(len(label_B))
    train, val, test = (numbers[part::3] for part in range(3))
    return attentive(
        lambda rows: token_BND[rows], (train, label_B[train]), (val, label_B[val]), test, 2,
        seed=seed,
    )  # fmt: skip


def test_progress_reaches_its_end_with_all_passes_over_the_training_images(capsys):
    probed(*marked_tokens(60))
    bar = capsys.readouterr().err.rpartition("\r")[2]
    assert bar.startswith("attentive probe, seed 0: 100%")
    assert "640/640 [" in bar  # 20 images: two passes for the standard, 30 epochs


def test_a_head_is_cross_attention_of_one_query_over_standardised_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    token_BND = torch.randn(4, PATCHES_OF_ONE, WIDTH, generator=generator) * 3 + 1
    standard = Standard(*torch.randn(2, WIDTH, generator=generator).abs().add(0.5))
    head = _first(WIDTH, 3, generator)
    head = head._replace(query_HA=head.query_HA * 100)  # else all patches weigh about the same
    row_BND = (token_BND - standard.mean_D) / standard.std_D
    written_out = nn.MultiheadAttention(WIDTH, len(head.query_HA), bias=False, batch_first=True)
    with torch.no_grad():
        eye_DD = torch.eye(WIDTH)  # the query is a parameter, and nothing maps the answer
        parts = (eye_DD, head.key_HAD.reshape(WIDTH, WIDTH), head.value_HAD.reshape(WIDTH, WIDTH))
        written_out.in_proj_weight.copy_(torch.cat(parts))
        written_out.out_proj.weight.copy_(eye_DD)
        query_B1D = head.query_HA.reshape(1, 1, WIDTH).expand(4, 1, WIDTH)
        seen_BD = written_out(query_B1D, row_BND, row_BND)[0][:, 0]
    expected_BY = seen_BD @ head.map_DY + head.bias_Y
    torch.testing.assert_close(head.logits(token_BND, standard), expected_BY, rtol=0, atol=1e-5)


def test_it_learns_what_the_mean_of_the_tokens_hides() -> None:
    token_BND, label_B = marked_tokens()
    probe = probed(token_BND, label_B)
    assert macro("auroc", label_B[2::3], probe.probability_BY)[0] > 0.92
    mean_BD = token_BND.mean(dim=1).numpy()
    of_mean = logistic(
        (mean_BD[::3], label_B[::3]), (mean_BD[1::3], label_B[1::3]), mean_BD[2::3], 2
    )
    assert macro("auroc", label_B[2::3], of_mean.probability_BY)[0] < 0.75
    assert probe.chosen in {f"lr={rate:g} decay={decay:g}" for rate in RATES for decay in DECAYS}
    assert probe.validation_score == macro("auroc", label_B[1::3], probe.validation_BY)[0]


def test_the_scale_and_place_of_channels_change_nothing() -> None:
    token_BND, label_B = marked_tokens(60)
    scale_D = torch.logspace(-3, 3, WIDTH)
    one, two = probed(token_BND, label_B), probed(token_BND * scale_D + 5 * scale_D, label_B)
    assert np.abs(one.probability_BY - two.probability_BY).max() < 0.02


def test_the_same_seed_gives_the_same_bits_and_another_another_probe() -> None:
    token_BND, label_B = marked_tokens(60)
    one, again, other = (probed(token_BND, label_B, seed).probability_BY for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()


def test_several_labels_have_a_sigmoid_each() -> None:
    token_BND, label_B = marked_tokens(60)
    label_BY = np.stack([label_B, 1 - label_B, np.ones_like(label_B)], axis=1)
    numbers = np.arange(60)
    probe = attentive(
        lambda rows: token_BND[rows], (numbers, label_BY), (numbers, label_BY), numbers, 3, seed=0
    )
    assert probe.probability_BY[:, 2].min() > 0.5  # each by itself: the rows do not add up to one
    assert len(probe.thresholds) == 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("attentive")
    two_colours(root / "colours", contrast=3)
    exported(root / "ours")
    return root


def asked(root: Path, weights: str, out: Path, *more: str) -> EvaluateConfig:
    return EvaluateConfig(
        weights=weights, size="micro", image_size=32, datasets=(str(root / "colours"),),
        protocols=("attentive", *more), threads=0, out=str(out),
    )  # fmt: skip


def test_of_several_encoders_an_ensemble_has_no_line_which_is_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = str(root / "ours")
    rows = run_all(asked(root, f"{ours},random,{ours}+random", tmp_path, "knn"))
    auroc = {(row["protocol"], row["run"]): row for row in rows if row["metric"] == "auroc"}
    assert {name for protocol, name in auroc if protocol == "attentive"} == {"ours", "random_micro"}
    for name in ("ours", "random_micro"):
        row = auroc["attentive", name]
        assert row["low"] < row["value"] < row["high"]
        assert row["chosen"].startswith("lr=")
    assert "ours+random_micro: pooled features of several encoders, no patch tokens" in caplog.text
    assert "attentive, 100 %" in (tmp_path / "ours,random_micro,ours+random_micro.md").read_text()


def test_an_ensemble_alone_is_refused_in_a_line(root: Path, tmp_path: Path) -> None:
    members = [FrozenEncoder(name, "micro", 32) for name in (str(root / "ours"), "random")]
    with pytest.raises(ValueError, match="no patch tokens, so no attentive; use --protocols="):
        evaluate(Ensemble(members), [(root / "colours", "")], ("attentive",), tmp_path)


@pytest.mark.parametrize("card", ["RETFound-Green", "FLAIR"])
def test_tokens_of_registers_and_of_feature_maps_have_the_mean_that_is_probed(
    card: str, root: Path, tmp_path: Path
) -> None:
    encoder = FrozenEncoder(write_stand_ins(tmp_path, [card])[card], image_size=56)
    dataset = Shards(root / "colours")
    samples = labelled(dataset).samples[:6]
    found = features(encoder, dataset, samples, tmp_path, 0, with_tokens=True)
    assert found.tokens is not None
    token_BND = found.tokens.read([sample.index for sample in samples])
    assert token_BND.shape == ((6, 16, 384) if card == "RETFound-Green" else (6, 4, 2048))
    row_BD = torch.from_numpy(found.of(samples, PATCHES)[1])
    assert F.cosine_similarity(token_BND.mean(dim=1), row_BD).min() > 0.999


def test_tokens_lie_in_chunks_of_which_a_damaged_one_alone_is_computed_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(token_store, "_CHUNK", 1)  # a batch each
    monkeypatch.setattr("maskedclip.evaluate.features._BATCH", 16)
    encoder, dataset = FrozenEncoder("random", "micro", 32), Shards(root / "colours")
    samples = labelled(dataset).samples

    def table() -> TokenStore:
        found = features(encoder, dataset, samples, tmp_path, 0, with_tokens=True).tokens
        assert found is not None
        return found

    first = table()
    readable = [sample.index for sample in samples if sample.index in first]
    assert len(readable) == len(first) == 82  # of 84 two are damaged
    chunks = sorted(tmp_path.glob("*-tokens/*.safetensors"))
    assert len(chunks) == 6
    expected = first.read(readable)
    damaged, *whole = chunks
    before, hidden = {path: path.read_bytes() for path in whole}, indices(damaged)
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    again = table()
    assert f"{damaged.name}: is damaged" in caplog.text
    now = {path: path.read_bytes() for path in damaged.parent.iterdir()}
    assert before.items() <= now.items()
    assert {index for path in now.keys() - before.keys() for index in indices(path)} == hidden
    torch.testing.assert_close(again.read(readable), expected)


def indices(chunk: Path) -> set[int]:
    with safe_open(chunk, framework="np") as file:
        return {int(index) for index in file.get_tensor("index")}


def test_tokens_that_float16_does_not_hold_are_refused(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "colours-tokens", {})
    for value in (1e5, float("nan")):
        with pytest.raises(ValueError, match=r"patch tokens beyond 65504, .*--protocols=logistic"):
            store.add(np.array([0]), torch.full((1, 2, 3), value))
