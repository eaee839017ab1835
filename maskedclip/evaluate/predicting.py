"""What a protocol answers: probes of frozen features, and the text tower without training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from maskedclip.data.captions import Wording, class_categories, prompts, wording_of
from maskedclip.data.expert_dictionary import EXPERT
from maskedclip.data.labelled import LabelledSample, Task
from maskedclip.data.splits import Division
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.attentive_probe import attentive, attentive_settings
from maskedclip.evaluate.features import JOINT, PATCHES, Features, FrozenEncoder
from maskedclip.evaluate.linear_probe import linear, linear_settings
from maskedclip.metrics import probes, results
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.probes import Labelled, Probe, logistic, nearest, ridge
from maskedclip.metrics.scores import chosen_thresholds, metrics_of
from maskedclip.shards.downloads.class_words import words_of_class

ZERO_SHOT, RIDGE, LINEAR, ATTENTIVE = "zeroshot", "ridge", "linear", "attentive"
NORMAL = "normal"  # a key of the dictionary


class Benchmark(NamedTuple):
    """A task of a dataset, its samples divided into train, val and test."""

    dataset: Shards
    task: Task
    division: Division


class Evaluation(NamedTuple):
    """One evaluation: a protocol, and the labels that it learns from."""

    protocol: str
    fraction: float  # of the training labels
    seed: int
    train: list[LabelledSample]


def predict(
    encoder: FrozenEncoder, benchmark: Benchmark, evaluation: Evaluation, table: Features
) -> tuple[Predictions, Predictions, str]:
    """Return the predictions for test and validation, and the knob chosen on the latter or ""."""
    splits, task = benchmark.division.parts, benchmark.task
    kind = JOINT if evaluation.protocol == ZERO_SHOT else PATCHES
    samples, test_BD = table.of(splits["test"], kind)
    val_samples, val_BD = table.of(splits["val"], kind)
    if evaluation.protocol == ZERO_SHOT:
        probability_BY, knob = _zero_shot(encoder, benchmark, test_BD), ""
        validation_BY = _zero_shot(encoder, benchmark, val_BD)
        # it trains on no class, and knows all; labels are left out that no words stand for
        untrained = without_words(benchmark)
        thresholds: tuple[float, ...] = ()
        if task.kind == "labels":
            thresholds = chosen_thresholds(task.answers(val_samples), validation_BY, untrained)
    else:
        readable, train_BD = table.of(evaluation.train, PATCHES)
        train, validation = (
            (train_BD, task.answers(readable)), (val_BD, task.answers(val_samples)),
        )  # fmt: skip
        if evaluation.protocol == ATTENTIVE:
            probe = _attentive(table, evaluation.seed, (readable, val_samples, samples), task)
        else:
            probe = _probe(evaluation, train, validation, test_BD, len(task.classes))
        probability_BY, thresholds = probe.probability_BY, probe.thresholds
        validation_BY = probe.validation_BY
        untrained = task.untrained(evaluation.train)
        metric = metrics_of(task.kind)[0]
        score = results.written(metric, probe.validation_score)
        knob = f"{probe.chosen}, validation {metric.upper()} {score}"
    test, val = (
        Predictions(
            [sample.key for sample in own], [sample.unit for sample in own], task.answers(own),
            found_BY, task.ordered, untrained, task.kind, thresholds,
            tuple(sample.source for sample in own),
        )
        for own, found_BY in ((samples, probability_BY), (val_samples, validation_BY))
    )  # fmt: skip
    return test, val, knob


def _probe(
    evaluation: Evaluation,
    train: Labelled,
    validation: Labelled,
    test_BD: np.ndarray,
    num_classes: int,
) -> Probe:
    if evaluation.protocol == LINEAR:
        return linear(train, validation, test_BD, num_classes, seed=evaluation.seed)
    if evaluation.protocol == "knn":
        return nearest(train, validation, test_BD, num_classes)
    if evaluation.protocol == RIDGE:
        return ridge(train, validation, test_BD)
    return logistic(train, validation, test_BD, num_classes)


def settings_of(protocol: str) -> list[Any]:
    """Return the grid of a probe's knob and what else decides its numbers; [] without training."""
    if protocol == ZERO_SHOT:
        return []
    own = {
        LINEAR: linear_settings,
        ATTENTIVE: attentive_settings,
        RIDGE: probes.ridge_settings,
        "knn": probes.nearest_settings,
    }
    return own.get(protocol, probes.logistic_settings)()  # shots are logistic, too


def _attentive(
    table: Features, seed: int, parts: Sequence[Sequence[LabelledSample]], task: Task
) -> Probe:
    """Train on the tokens of `parts`: train, val and test."""
    assert table.tokens is not None
    train, val, test = (np.array([sample.index for sample in part]) for part in parts)
    answers = [task.answers(part) for part in parts[:2]]
    return attentive(
        table.tokens.read, (train, answers[0]), (val, answers[1]), test, len(task.classes),
        seed=seed,
    )  # fmt: skip


def _zero_shot(encoder: FrozenEncoder, benchmark: Benchmark, image_BD: np.ndarray) -> np.ndarray:
    """Return the probability of each class, or of each label against its absence."""
    image = torch.from_numpy(image_BD)
    embedded_YD = encoder.model.class_embeddings(
        class_prompts(benchmark, encoder.prompts, encoder.template)
    )
    if benchmark.task.kind == "class":
        return encoder.model.zero_shot(image, embedded_YD).numpy()
    half = len(embedded_YD) // 2
    pairs = zip(embedded_YD[:half], embedded_YD[half:], strict=True)
    columns = [encoder.model.zero_shot(image, torch.stack(pair))[:, 0] for pair in pairs]
    return torch.stack(columns, dim=1).numpy()


def class_prompts(
    benchmark: Benchmark,
    captions: Callable[[str], list[str]] | None = None,
    template: str = "",
) -> list[list[str]]:
    """Return the captions of each class, of whose embeddings zero-shot takes the mean.

    They are of the dataset's category for the class, else of the dictionary's, else of its name. Of
    a task of labels those of each one's absence stand behind them, in the same order.

    Args:
        captions: those of one of these names, of third-party weights by their own template; None:
            by the dataset's wording.
        template: that a run was given in place of the datasets' own, "" for none.
    """
    keys, wording = class_keys(benchmark), _wording(benchmark, template)
    if benchmark.task.kind == "labels":
        keys += [absence(key, wording.dictionary) for key in keys]
    return [captions(key) if captions else prompts(key, wording) for key in keys]


def _wording(benchmark: Benchmark, template: str = "") -> Wording:
    return wording_of(benchmark.dataset.manifest, template)


def class_keys(benchmark: Benchmark) -> list[str]:
    """Return what captions call each class: the dictionary's key for it, else its name."""
    published = benchmark.dataset.manifest.get("classes", {}).get(benchmark.task.name)
    names = class_categories(benchmark.task.name, benchmark.task.classes, published)
    known = _wording(benchmark).dictionary
    return [name if name in known else _dictionary_key(name) for name in names]


def without_words(benchmark: Benchmark) -> tuple[int, ...]:
    """Return the labels, such as "other", that the dictionary has no words for; of classes none."""
    if benchmark.task.kind != "labels":
        return ()
    keys, known = class_keys(benchmark), _wording(benchmark).dictionary
    return tuple(label for label, key in enumerate(keys) if key not in known)


def absence(category: str, dictionary: Mapping[str, Sequence[str]] = EXPERT) -> str:
    """Return what the dictionary calls the absence of a category, else a normal fundus."""
    if category == NORMAL:
        return "a disease"
    negated = f"no {category}"
    return negated if negated in dictionary else NORMAL


def _dictionary_key(name: str) -> str:
    """Return the dictionary's key for a class name such as "2_Cataract", else the name itself."""
    words = words_of_class(name)
    return words[0] if len(words) == 1 and words[0] in EXPERT else name
