"""What is measured beside the loss, against values found by hand, and that it changes nothing."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from maskedclip.config import Config, override
from maskedclip.data.transforms import normalise
from maskedclip.engine.distributed import process_group
from maskedclip.engine.step_guard import StepGuard
from maskedclip.models.pretrained import read_weights
from maskedclip.pretrain import health
from maskedclip.pretrain.due import Looks
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.maskedclip import objective
from maskedclip.pretrain.methods.protocol import At, Seen
from maskedclip.pretrain.monitor import PICTURES
from maskedclip.pretrain.sources import Batches, read_sources
from tests.pretrain import test_dinov2, test_simmim
from tests.pretrain.test_methods import shrunk

EVERY = {"log.health_every": 2, "log.shares_every": 3}
CPU = torch.device("cpu")


@pytest.fixture(scope="class")
def alone() -> Iterator[None]:
    with process_group():
        yield


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("alone")
class TestNumbers:
    def test_the_effective_rank_counts_the_directions_that_rows_have(self) -> None:
        assert float(health.effective_rank(torch.eye(6))) == pytest.approx(6)
        assert float(health.effective_rank(torch.ones(5, 8))) == pytest.approx(1, abs=1e-4)
        two = torch.tensor([[3.0, 0.0], [0.0, 1.0]])  # singular values 3 and 1
        entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        assert float(health.effective_rank(two)) == pytest.approx(math.exp(entropy))

    def test_uniformity_of_two_opposite_rows_and_of_two_equal_ones(self) -> None:
        opposite, equal = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0]] * 2)
        assert float(health.uniformity(opposite)) == pytest.approx(-8)
        assert float(health.uniformity(equal)) == pytest.approx(0, abs=1e-6)

    def test_the_floor_of_the_contrast_is_what_remains_of_the_best_features(self) -> None:
        label_A = torch.tensor([0, 0, 0, 1])
        row_AD = F.one_hot(
            label_A, 2
        ).float()  # pairs of one label are alike, of two at a right angle
        seen = Seen(row_AD, row_AD, row_AD, label_A, torch.tensor([100.0]))
        found = {name: float(value) for name, value in health.of_contrast(seen).items()}
        assert found["loss_clip_excess"] == pytest.approx(0, abs=1e-5)
        assert found["retrieval_image_to_text"] == found["retrieval_text_to_image"] == 1
        assert found["alignment"] == 0
        turned = health.of_contrast(seen._replace(text_AD=row_AD.flip(1)))
        assert float(turned["retrieval_image_to_text"]) == 0
        assert float(turned["alignment"]) == pytest.approx(2)

    def test_a_constant_teacher_is_reached_by_a_constant_and_a_split_one_half(self) -> None:
        one = torch.zeros(2, 16, 4)
        one[..., 0] = 1
        found = health.of_teacher(Seen(one[:, 0], target_BND=one))
        assert float(found["target_cosine_constant"]) == pytest.approx(1)
        assert float(found["teacher_rank"]) == pytest.approx(1, abs=1e-4)
        split = one.clone()
        split[1] = -one[1]
        found = health.of_teacher(Seen(one[:, 0], target_BND=split))
        assert float(found["target_cosine_constant"]) == pytest.approx(0)

    def test_cosines_of_hidden_and_of_visible_patches_are_told_apart(self) -> None:
        target_BND = F.normalize(torch.randn(2, 4, 3), dim=-1)
        hidden_BN = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]]).bool()
        feature_BND = torch.where(hidden_BN[..., None], target_BND, -target_BND)
        seen = Seen(target_BND[:, 0], target_BND=target_BND, hidden_BN=hidden_BN)
        found = health.of_teacher(seen._replace(feature_BND=feature_BND))
        assert float(found["target_cosine_hidden"]) == pytest.approx(1)
        assert float(found["target_cosine_visible"]) == pytest.approx(-1)
        of_hidden = feature_BND[hidden_BN].view(2, 2, 3)
        found = health.of_teacher(seen._replace(feature_BND=of_hidden))
        assert float(found["target_cosine_hidden"]) == pytest.approx(1)
        assert "target_cosine_visible" not in found

    def test_the_update_ratio_is_the_change_of_the_weights(self, small: Config) -> None:
        method, batch, guard = begun(small)
        for step in range(2):
            before = {n: p.detach().clone() for n, p in method.model.named_parameters()}
            method.step(batch, At(step, 9, 1e-3), guard)
        found = health.update_ratios(method.model, method.optimizer)
        assert found.keys() >= {f"update_ratio/{n}" for n in ("encoder", "bridge", "text")}
        for part in ("encoder", "text", "pixel_decoder"):
            own = [(p, before[n]) for n, p in method.model.named_parameters() if n.startswith(part)]
            change = sum((new - old).square().sum() for new, old in own).sqrt()
            size = sum(new.square().sum() for new, _ in own).sqrt()
            assert float(found[f"update_ratio/{part}"]) == pytest.approx(
                float((change / size).detach()), rel=1e-3
            )

    def test_shares_of_the_terms_are_those_of_their_own_gradients(self, small: Config) -> None:
        weights = {"mim": 1.0, "clip": 0.3, "mfd": 0.2}
        config = override(small, {f"loss.{name}": weight for name, weight in weights.items()})
        method, batch, _ = begun(config)
        found = health.gradient_shares(method, method.model, batch, At(0, 9, 1e-3))
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        losses, _ = objective(method.networks, image_BCHW, batch, config)
        encoder, norms = list(method.model.encoder.parameters()), {}
        for term, weight in weights.items():
            slopes = torch.autograd.grad(
                weight * losses[f"loss_{term}"], encoder, retain_graph=True, allow_unused=True
            )
            norms[term] = float(torch.nn.utils.get_total_norm([x for x in slopes if x is not None]))
        for term, norm in norms.items():
            share = float(found[f"gradient_share/{term}/encoder"])
            assert share == pytest.approx(norm / sum(norms.values()), rel=1e-4)
        assert not any("text" in name or "pixel_decoder" in name for name in found)
        assert all(parameter.grad is None for parameter in method.model.parameters())


def begun(config: Config):
    """Return the method of a run before its first step, its first batch, and a guard."""
    method = method_of(config)(config, CPU)
    with Batches(config, read_sources(config), method.view(config), method.tokenize, CPU) as given:
        given.seek(0)
        batch = given.next()
    return method, batch, StepGuard(method.optimizer, CPU, spike=0.0)


def methods(small: Config) -> dict[str, Config]:
    return {
        "maskedclip": small,
        "accumulate": override(small, {"optim.accumulate": 2}),
        "sigmoid": override(small, {"loss.contrast": "sigmoid", "model.feature_patches": "hidden"}),
        "mae": shrunk(small, "mae"),
        "clip": shrunk(small, "clip"),
        "simmim": test_simmim.shrunk(small),
        "dinov2": test_dinov2.shrunk(small),
    }


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("maskedclip", {"loss_clip_excess", "target_cosine_visible", "gradient_share/mfd/encoder"}),
        ("accumulate", {"loss_clip_excess", "target_cosine_visible", "gradient_share/mfd/encoder"}),
        ("sigmoid", {"loss_clip_excess", "target_cosine_hidden", "gradient_share/mfd/encoder"}),
        ("mae", set()),
        ("clip", {"retrieval_image_to_text", "alignment"}),
        ("simmim", set()),
        ("dinov2", {"teacher_drift", "gradient_share/dino/encoder", "cls_std"}),
    ],
)
def test_what_is_measured_changes_no_weight_and_each_method_has_what_it_has(
    small: Config, phantoms: dict[str, Path], name: str, wanted: set[str]
) -> None:
    changes = {"optim.steps": 4, "name": "measured", "log.images": True, **EVERY}
    probe = {"log.probe": str(phantoms["heldout"]), "log.probe_every": 4}
    config = override(methods(small)[name], changes | probe)
    none = {"log.health_every": 0, "log.shares_every": 0, "log.probe": "", "name": "plain"}
    none |= {"engine.pictures_every": 0}
    runs = [pretrain(one) for one in (config, override(config, none))]
    ours, theirs = (read_weights(run / "model.safetensors")[0] for run in runs)
    assert all(ours[key].equal(theirs[key]) for key in theirs)
    measured, plain = (rows(run) for run in runs)
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in measured if row["step"]] == [row[key] for row in plain]
    assert [row["step"] for row in measured if "feature_rank" in row] == [2, 4]
    assert [row["step"] for row in measured if "probe_knn" in row] == [0, 4]
    assert EventAccumulator(str(runs[0])).Reload().Tags()["images"] == [PICTURES]
    shares = [row["step"] for row in measured if any("gradient_share" in key for key in row)]
    assert shares == ([3, 4] if len(config.loss.terms) > 1 or name == "dinov2" else [])
    last = measured[-1].keys()
    assert (
        wanted | {"feature_rank", "uniformity", "grad_norm/encoder", "update_ratio/encoder"} <= last
    )
    assert not {"feature_rank", "grad_norm/encoder", "probe_knn"} & plain[-1].keys()
    assert "loss_clip_excess" in wanted or "gradient_share/clip/encoder" not in last


def test_a_step_in_parts_measures_what_a_whole_one_does(small: Config) -> None:
    changes = {"optim.steps": 1, **EVERY}
    whole, parts = (
        rows(pretrain(override(small, changes | {"name": name, "optim.accumulate": count})))[-1]
        for name, count in (("whole", 1), ("parts", 2))
    )
    assert whole.keys() == parts.keys()
    for key in whole.keys() - UNEQUAL:
        assert parts[key] == pytest.approx(whole[key], rel=1e-3, abs=1e-5), key


# of the clock and the machine
UNEQUAL = {
    "images_per_s", "data_wait", "mfu", "memory_gib", "run_s", "unix_s",
    *(f"goodput/{kind}" for kind in ("productive", "waiting", "measuring", "saving")),
    "goodput/restarting", "goodput/replayed",
}  # fmt: skip


def test_rows_are_measured_at_the_first_one_since_a_multiple_and_at_the_end(small: Config) -> None:
    config = override(small, {"engine.log_every": 30, "log.health_every": 100})
    at = [step + 1 for step in range(310) if Looks(config, step, 310).features]
    assert at == [120, 210, 300, 310]
    assert not Looks(override(config, {"log.health_every": 0}), 309, 310).features
