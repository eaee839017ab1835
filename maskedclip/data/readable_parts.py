"""Whether the parts of a split have images that can be read: known before a run, not behind it."""

from collections.abc import Collection, Mapping, Sequence

from maskedclip.data.labelled import LabelledSample, Task
from maskedclip.data.photographs.decoding import PIXEL_LIMIT, UnreadableImage, decode
from maskedclip.data.storage.shards import DamagedSample, Shards


def refuse_unreadable(
    dataset: Shards,
    task: Task,
    parts: Mapping[str, Sequence[LabelledSample]],
    known: Collection[int] = (),
) -> None:
    """Raise RuntimeError where the readable images of a part are none, or all of one answer.

    Of a whole part two images are read, of different answers; of a damaged one as many as it takes.

    Args:
        parts: by the name that a message gives them; one of a single answer needs one image.
        known: indices of samples whose images are not asked for.
    """
    damage_of: dict[int, DamagedSample | None] = dict.fromkeys(known)
    for name, samples in parts.items():
        answers = {task.text(sample) for sample in samples}
        found: set[str] = set()
        damaged: list[DamagedSample] = []
        for sample in samples:
            if len(found) == min(2, len(answers)):
                break
            if (answer := task.text(sample)) in found:
                continue
            if sample.index not in damage_of:
                damage_of[sample.index] = _damage(dataset, sample.index)
            if damage := damage_of[sample.index]:
                damaged.append(damage)
            else:
                found.add(answer)
        if damaged and len(found) < min(2, len(answers)):
            which = f"but those of {found.pop()} " if found else ""
            raise RuntimeError(
                f"{dataset.directory}: task {task.name}: no image of {name} {which}can be read "
                f"({damaged[0]}); tools/check_shards.py lists what is damaged, build that again"
            )


def _damage(dataset: Shards, index: int) -> DamagedSample | None:
    try:
        decode(dataset.read(index)[0], PIXEL_LIMIT)  # not labelled_views, which loads torch
    except DamagedSample as damage:
        return damage
    except UnreadableImage as error:
        reason = f"image does not decode ({error})"
        return DamagedSample(dataset.shard(index), dataset.key(index), reason)
    return None
