"""The sizes of a task's split in words: images and patients, who divided them, labels of few."""

from collections import Counter
from collections.abc import Mapping, Sequence

from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards
from maskedclip.metrics.few_images import FEW


def split_lines(dataset: Shards, name: str) -> list[str]:
    """Return what the split of a task holds, or why its file cannot be read."""
    task = labelled(dataset, name)
    try:
        parts = division_of(dataset, task).parts
    except ValueError as error:
        return [str(error)]
    lines = [", ".join(_size(part, samples) for part, samples in parts.items())]
    lines.append(_origin(task))
    counts = {
        part: Counter(label for sample in samples for label in task.labels_of(sample))
        for part, samples in parts.items()
    }
    if task.kind == "labels":
        bare = [f"{sum(not s.labels for s in samples):,}" for samples in parts.values()]
        of_labels = [
            f"{label} {'/'.join(f'{count[number]:,}' for count in counts.values())}"
            for number, label in enumerate(task.classes)
        ]
        lines.append(f"{'/'.join(parts)}: {', '.join(of_labels)}; none of them {'/'.join(bare)}")
    return lines + _few(task, counts)


def _size(part: str, samples: Sequence[LabelledSample]) -> str:
    patients = len({sample.patient for sample in samples} - {None})
    of = f" of {patients:,} patients" if patients else ""
    return f"{part} {len(samples):,} images{of}"


def _origin(task: Task) -> str:
    """Return which parts were published, and how the others were drawn."""
    published = {sample.split for sample in task.samples} - {None}
    drawn = [part for part in ("test", "val") if part not in published]
    if not drawn:
        return "all as published"
    unknown = sum(sample.patient is None for sample in task.samples)
    if not unknown:
        how = "by patient"
    elif unknown == len(task.samples):
        how = "by image, copies together: no patient is known"
    else:
        how = f"by patient, and {unknown:,} images of unknown patients one by one"
    kept = [part for part in ("test", "val") if part in published]
    return f"{' and '.join(drawn)} drawn here, {how}" + "".join(
        f"; {part} as published" for part in kept
    )


def _few(task: Task, counts: Mapping[str, Counter[int]]) -> list[str]:
    """Return a note on the classes of fewer than FEW test images, none where there are none."""
    test = counts["test"]
    few = [f"{name} {test[label]}" for label, name in enumerate(task.classes) if test[label] < FEW]
    if task.kind == "number" or not few:
        return []
    each = "label" if task.kind == "labels" else "class"
    return [f"note: fewer than {FEW} test images of a {each}, so its scores say little: "
            f"{', '.join(few)}"]  # fmt: skip
