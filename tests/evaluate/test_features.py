"""Features of frozen weights: those of the network, computed once, kept in a checked file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from maskedclip.data.labelled import LabelledSample, labelled
from maskedclip.data.labelled_views import preparation, prepared_batches
from maskedclip.data.pretraining_images import PRETRAINING_IMAGES
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.features import JOINT, PATCHES, FrozenEncoder, features
from maskedclip.inference import load
from maskedclip.models.classifier import build_classifier, write_classifier
from maskedclip.models.pretrained import load_encoder
from tests.untrained import exported


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "ours"
    exported(directory)
    return directory


@pytest.fixture
def heldout(phantoms: dict[str, Path]) -> tuple[Shards, list[LabelledSample]]:
    dataset = Shards(phantoms["heldout"])
    return dataset, labelled(dataset).samples[:20]


def close(feature_BD: np.ndarray, expected: torch.Tensor) -> None:
    """Compare directions: one side may be computed in bf16, the other is in fp32."""
    cosine = torch.cosine_similarity(torch.from_numpy(feature_BD), expected, dim=1)
    assert cosine.min() > 0.999


def test_they_are_what_the_networks_give(run: Path, heldout: Any, tmp_path: Path) -> None:
    dataset, samples = heldout
    table = features(FrozenEncoder(run), dataset, samples, tmp_path, 1)
    (views,) = prepared_batches(dataset, samples, prepare=preparation(32), batch=64, threads=1)
    kept, joint_BD = table.of(samples, JOINT)
    assert kept == samples
    close(joint_BD, load(run).features(views.image_BCHW))
    encoder, _ = load_encoder(run, image_size=32, global_pool="token")
    with torch.no_grad():
        token_BND = encoder.eval().forward_features(views.image_BCHW)
    close(table.of(samples, PATCHES)[1], token_BND[:, 1:].mean(dim=1))
    alone = features(FrozenEncoder(run / "encoder.safetensors"), dataset, samples, tmp_path, 1)
    close(alone.of(samples, PATCHES)[1], token_BND[:, 1:].mean(dim=1))
    assert len(list(tmp_path.iterdir())) == 2  # other weights, another file


def test_a_file_grows_by_what_is_missing_and_keeps_what_it_has(
    run: Path, heldout: Any, tmp_path: Path
) -> None:
    dataset, samples = heldout
    first = features(FrozenEncoder(run), dataset, samples[:5], tmp_path, 1)
    second = features(FrozenEncoder(run), dataset, samples[3:], tmp_path, 1)
    assert len(second.index_N) == len(samples)
    assert (second.of(samples[:5], PATCHES)[1] == first.of(samples[:5], PATCHES)[1]).all()
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    again = features(FrozenEncoder(run), dataset, samples, tmp_path, 1)
    assert file.stat().st_mtime_ns == before
    assert (again.of(samples, JOINT)[1] == second.of(samples, JOINT)[1]).all()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_file_is_computed_again_and_said(
    damage: str, run: Path, heldout: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, samples = heldout
    right = features(FrozenEncoder(run), dataset, samples, tmp_path, 1)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 1
    contents = {"flipped": bytes(flipped), "cut": whole[:-100], "empty": b"", "text": b"{}" * 99}
    file.write_bytes(contents[damage])
    again = features(FrozenEncoder(run), dataset, samples, tmp_path, 1)
    assert "is damaged" in caplog.text
    assert (again.of(samples, PATCHES)[1] == right.of(samples, PATCHES)[1]).all()
    assert file.read_bytes() == whole


def test_a_file_of_other_weights_under_this_name_is_not_believed(
    run: Path, heldout: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, samples = heldout
    features(FrozenEncoder(run), dataset, samples, tmp_path / "a", 1)
    features(FrozenEncoder("random", "micro"), dataset, samples, tmp_path / "b", 1)
    (ours,), (theirs,) = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    ours.write_bytes(theirs.read_bytes())
    table = features(FrozenEncoder(run), dataset, samples, tmp_path / "a", 1)
    assert "not what its header says" in caplog.text
    assert JOINT in table.rows


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder without weights"):
        FrozenEncoder(tmp_path)
    save_file({"heldout": torch.zeros(4, dtype=torch.int64)}, tmp_path / PRETRAINING_IMAGES)
    with pytest.raises(ValueError, match=r"a folder without weights.*; let the run end"):
        FrozenEncoder(tmp_path)  # a run that was stopped has this file alone


class Killed(FrozenEncoder):
    """Weights whose network is stopped at its third batch."""

    batches = 0

    def encode(self, image_BCHW: torch.Tensor) -> dict[str, np.ndarray]:
        self.batches += 1
        if self.batches == 3:
            raise KeyboardInterrupt
        return super().encode(image_BCHW)


def test_what_a_killed_run_had_saved_is_not_computed_again(
    run: Path, heldout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, samples = heldout
    whole = features(FrozenEncoder(run), dataset, samples, tmp_path / "whole", 1)
    monkeypatch.setattr("maskedclip.evaluate.features._BATCH", 4)
    monkeypatch.setattr("maskedclip.evaluate.features._SAVE_EVERY", -1.0)
    with pytest.raises(KeyboardInterrupt):
        features(Killed(run), dataset, samples, tmp_path, 1)
    (file,) = tmp_path.glob("*.safetensors")
    with safe_open(file, framework="np") as saved:
        assert saved.get_tensor("index").tolist() == [sample.index for sample in samples[:8]]
    going_on = Killed(run)
    features(going_on, dataset, samples[:16], tmp_path, 1)
    assert going_on.batches == 2  # 8 of the 16 were there
    table = features(FrozenEncoder(run), dataset, samples, tmp_path, 1)
    close(table.of(samples, PATCHES)[1], torch.from_numpy(whole.of(samples, PATCHES)[1]))
    assert [file.name for file in tmp_path.glob("*.tmp")] == []


def test_third_party_and_fine_tuned_weights_have_features_too(
    run: Path, heldout: Any, tmp_path: Path
) -> None:
    dataset, samples = heldout
    encoder, _ = load_encoder(run, image_size=224, global_pool="token")
    torch.save({"model": encoder.state_dict()}, tmp_path / "RETFound.pth")
    third_party = FrozenEncoder(tmp_path / "RETFound.pth")
    assert (third_party.name, third_party.info.preparation.image_size) == ("RETFound", 224)
    assert features(third_party, dataset, samples, tmp_path, 1).rows[PATCHES].shape == (20, 128)
    model, _ = build_classifier(str(run), image_size=32, num_classes=2, drop_path=0.0, size="micro")
    write_classifier(model, tmp_path / "finetuned.safetensors", ["a", "b"], {})
    tuned = features(FrozenEncoder(tmp_path), dataset, samples, tmp_path, 1)
    (views,) = prepared_batches(dataset, samples, prepare=preparation(32), batch=64, threads=1)
    close(tuned.of(samples, PATCHES)[1], load(tmp_path).features(views.image_BCHW))
