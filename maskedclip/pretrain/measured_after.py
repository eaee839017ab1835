"""What is measured when pre-training ends: whether it can be, before hours of training."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from maskedclip.config import Config
from maskedclip.data.label_kinds import kind_of
from maskedclip.data.labelled import labelled
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.data.splits import division_of
from maskedclip.data.storage.open_dataset import describe
from maskedclip.data.storage.shards import Shards
from maskedclip.metrics.scores import protocols_of_kind
from maskedclip.shards.dataset_names import refuse_one_name
from maskedclip.shards.image_folders import tree_of


def check_measured(config: Config, drawn_later: Iterable[Path]) -> None:
    """Raise ValueError where no protocol of `after` would score the encoder, or two share rows.

    Also where a dataset cannot be divided into images to learn from and to be tested on, or these
    cannot be read.

    Args:
        drawn_later: phantoms that are not there yet.
    """
    after, later = config.after, set(drawn_later)
    datasets = [Path(name) for name in after.datasets if Path(name) not in later]
    refuse_one_name("after.datasets", datasets)
    if not after.datasets:
        return
    protocols = [name for name in after.protocols if reads_text(config) or name != "zeroshot"]
    if not protocols:
        raise ValueError(
            "after.protocols zeroshot: this run has no text tower (method "
            f"{config.method}, loss.clip {config.loss.clip:g}); pass --after.protocols=logistic,knn"
        )
    for directory in datasets:
        refuse_unsuited("after.protocols", protocols, directory, after.task)
        try:
            check_labels(directory, after.task)
        except ValueError as error:
            raise ValueError(
                f"after.datasets: {error}; or measure nothing: --after.datasets="
            ) from None


def refuse_unsuited(
    field: str, protocols: Sequence[str], directory: Path, task: str, shots: Sequence[int] = ()
) -> None:
    """Raise ValueError where a task is a number and none of the protocols scores numbers.

    Args:
        field: that names the protocols, as the command line writes it.
        directory: a dataset; one that is not there yet, or a tree of images, has no numbers.
        task: "" for the dataset's first.
        shots: labels a class, which measure classes, too.
    """
    if not directory.exists() or tree_of(directory):
        return
    manifest = describe(directory)
    name = task or min(manifest.get("classes", {}) | manifest.get("kinds", {}), default="")
    kind = kind_of(manifest, name)
    if not protocols_of_kind(kind, protocols) and not (shots and kind != "number"):
        named = ",".join([*protocols, *(f"{number}-shot" for number in shots)])
        raise ValueError(
            f"{field} {named}: {name} of {directory} is a number, and they tell "
            f"classes apart; pass --{field}=ridge,knn"
        )


def check_labels(directory: Path, task: str) -> None:
    """Raise ValueError where a dataset's labels, or their split, are none to be measured on.

    They are read, where a manifest alone does not tell: of third-party tars, of a stale split file.

    Args:
        task: "" for the dataset's first.
    """
    dataset = Shards(directory)
    try:
        named = labelled(dataset, task)
        refuse_unreadable(dataset, named, division_of(dataset, named).parts)
    except (ValueError, RuntimeError) as error:
        words = str(error).removeprefix(f"{directory}: ")
        raise ValueError(f"{directory}: {words}") from None


def reads_text(config: Config) -> bool:
    """Return whether the encoder that a run trains has a text tower beside it."""
    return config.method == "maskedclip" and config.loss.clip > 0
