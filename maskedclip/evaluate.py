"""What an encoder knows without fine-tuning: a linear probe on it, and zero-shot by its texts.

python -m maskedclip.evaluate RUN_OR_WEIGHTS --datasets shards/idrid,shards/eyepacs
"""

if __name__ == "__main__":  # before torch is imported: --help and mistakes answer at once
    from maskedclip.command import one_line_errors
    from maskedclip.downstream_command import read_evaluate

    OPTIONS = read_evaluate(__doc__)

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskedclip.data.captions import prompts
from maskedclip.data.downstream import Sample, Task, labelled
from maskedclip.data.ledger import Ledger
from maskedclip.data.splits import Division, division_of, training_share
from maskedclip.data.storage.shards import Shards
from maskedclip.data.views import prepared_batches
from maskedclip.downstream_command import check_protocols
from maskedclip.engine.distributed import compute_type
from maskedclip.eval import results
from maskedclip.eval.probes import linear_probe
from maskedclip.eval.zeroshot import categories
from maskedclip.inference import Model, load, name_of, read_header
from maskedclip.models.pretrained import ENCODER, load_encoder

logger = logging.getLogger(__name__)
LOST = "lost_samples_evaluate.jsonl"
_BATCH = 64


class Held(NamedTuple):
    """A dataset's task with its samples divided, and the list of what cannot be read."""

    dataset: Shards
    task: Task
    division: Division
    threads: int
    ledger: Ledger


def evaluate(  # noqa: PLR0913 (one keyword a knob)
    weights: Path | str,
    datasets: Sequence[Path],
    task: str,
    protocols: Sequence[str],
    out: Path,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    threads: int = 2,
) -> list[dict[str, Any]]:
    """Measure frozen weights on the test split of each dataset; return the rows it wrote to `out`.

    Prints them as a table. protocols are "linear" (logistic regression on the mean of the patch
    tokens, with `fraction` of the training labels) and "zeroshot" (needs the text tower of a
    model.safetensors; left out, with a warning, where there is none and others are asked for).
    Rows of the same run, dataset, task, protocol, fraction and seed are replaced. Raises ValueError
    for weights, datasets, tasks or protocols that are not there.
    """
    check_protocols(protocols)
    model = load(weights) if "zeroshot" in protocols else None
    if model is not None and not model.reads_text:
        if len(protocols) == 1:
            raise ValueError(f"{weights}: no text tower, so no zero-shot; use --protocols=linear")
        logger.warning("%s: no text tower; zero-shot is left out", weights)
        model = None
    rows: list[dict[str, Any]] = []
    method = name_of(weights)
    encode = _encoder(weights) if "linear" in protocols else None
    for directory in datasets:
        dataset = Shards(Path(directory))
        found = labelled(dataset, task)
        division = division_of(dataset, found)
        held = Held(dataset, found, division, threads, Ledger(out / LOST, dataset.name))
        held.ledger.add(found.lost)
        if encode is not None:
            samples, probability_BY = _linear(held, *encode, fraction, seed)
            identity = _identity(weights, held, "linear", fraction, seed)
            rows += _measure(out, identity, held, samples, probability_BY, method)
        if model is not None:
            samples, probability_BY = _zero_shot(held, model)
            identity = _identity(weights, held, "zeroshot", 0.0, 0)
            rows += _measure(out, identity, held, samples, probability_BY, method)
    results.write_rows(out, rows)
    sys.stdout.write(results.table(rows))
    return rows


def _encoder(weights: Path | str) -> tuple[Callable[[Tensor], Tensor], int]:
    """Return (normalised images to feature_BD, image size) of a frozen encoder."""
    path = Path(weights)
    header, _ = read_header(path / ENCODER if path.is_dir() else path)
    image_size = int(header.get("image_size", 224))
    encoder, report = load_encoder(path, image_size=image_size, global_pool="token")
    logger.info("%s", report)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).eval()
    kind = compute_type("auto" if device.type == "cuda" else "fp32", device)

    @torch.no_grad()
    def encode(image_BCHW: Tensor) -> Tensor:
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            token_BND = encoder.forward_features(image_BCHW.to(device, non_blocking=True))
        return token_BND[:, encoder.num_prefix_tokens :].float().mean(dim=1).cpu()

    return encode, image_size


def _features(
    held: Held, samples: Sequence[Sample], encode: Callable[[Tensor], Tensor], image_size: int
) -> tuple[list[Sample], Tensor]:
    """Return the samples that could be read, and a row of features for each."""
    logger.info("%s: features of %d images", held.dataset.name, len(samples))
    kept: list[Sample] = []
    rows: list[Tensor] = []
    for views in prepared_batches(
        held.dataset, samples, image_size=image_size, batch=_BATCH, threads=held.threads
    ):
        held.ledger.add(views.lost)
        if views.samples:
            kept += views.samples
            rows.append(encode(views.image_BCHW))
    if not rows:
        raise RuntimeError(f"{held.dataset.directory}: no image can be read; check the shards")
    return kept, torch.cat(rows)


def _linear(
    held: Held, encode: Callable[[Tensor], Tensor], image_size: int, fraction: float, seed: int
) -> tuple[list[Sample], np.ndarray]:
    parts = held.division.parts | {"train": training_share(held.division, fraction, seed)}
    found = {name: _features(held, parts[name], encode, image_size) for name in parts}
    pairs = {name: (rows.numpy(), _labels(samples)) for name, (samples, rows) in found.items()}
    probe = linear_probe(pairs["train"], pairs["val"], pairs["test"][0], len(held.task.classes))
    logger.info(
        "%s: C %g, validation AUROC %.3f", held.dataset.name, probe.strength, probe.validation_auroc
    )
    return found["test"][0], probe.probability_BY


def _zero_shot(held: Held, model: Model) -> tuple[list[Sample], np.ndarray]:
    samples, image_BD = _features(
        held, held.division.parts["test"], model.features, model.image_size
    )
    names = categories(held.task.name, held.task.classes, _published(held))
    class_YD = model.class_embeddings([prompts(name) for name in names])
    return samples, model.zero_shot(image_BD, class_YD).numpy()


def _published(held: Held) -> Mapping[str, str] | None:
    """Return class -> category where the dataset's manifest gives it."""
    classes = held.dataset.manifest.get("classes", {}).get(held.task.name)
    return classes if isinstance(classes, dict) else None


def _labels(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([sample.label for sample in samples])


def _identity(
    weights: Path | str, held: Held, protocol: str, fraction: float, seed: int
) -> dict[str, Any]:
    return {
        "run": name_of(weights),
        "dataset": held.dataset.name,
        "task": held.task.name,
        "protocol": protocol,
        "fraction": fraction,
        "seed": seed,
    }


def _measure(
    out: Path,
    identity: dict[str, Any],
    held: Held,
    samples: Sequence[Sample],
    probability_BY: np.ndarray,
    method: str,
) -> list[dict[str, Any]]:
    found = results.Measured(
        [sample.key for sample in samples],
        [sample.unit for sample in samples],
        _labels(samples),
        probability_BY,
    )
    shards = held.dataset.directory
    return results.measure(identity, held.task.classes, found, out, method=method, shards=shards)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = Path(OPTIONS.weights)
    place = given if given.is_dir() else Path("runs") / name_of(given)
    with one_line_errors():
        evaluate(
            OPTIONS.weights,
            [Path(directory) for directory in OPTIONS.datasets],
            OPTIONS.task,
            OPTIONS.protocols,
            Path(OPTIONS.out) if OPTIONS.out else place,
            fraction=OPTIONS.fraction,
            seed=OPTIONS.seed,
            threads=OPTIONS.threads,
        )
