"""Image folders (train/val/test/CLASS, or CLASS alone), as ImageFolder and RETFound have them.

They are built as shards once, beside the tree or else in the cache, in a folder named by the
fingerprint of the tree: an unchanged tree is not built again, a changed one is.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.class_names import joined_spellings, spelling_key
from maskedclip.data.labelled import labelled
from maskedclip.data.splits import division_of
from maskedclip.data.storage.manifest import datasets_below, no_dataset
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.shards import Shards
from maskedclip.data.storage.third_party_tars import third_party_tars
from maskedclip.metrics.file_lock import locked
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.copies_in_names import original_stem
from maskedclip.shards.downloads.files import (
    ENDINGS,
    DownloadFiles,
    ending_of,
    files_not_read,
    is_junk,
    list_files,
    size_and_time,
)
from maskedclip.shards.downloads.folder_names import (
    FolderClasses,
    FolderSplits,
    folder_classes,
    folder_splits,
    is_pictures,
    outside_of_splits,
    plain_split,
    refuse_unclear,
    split_of,
    splits_beside,
)
from maskedclip.shards.downloads.image_names import stem_of
from maskedclip.shards.downloads.masks import photographs_below
from maskedclip.shards.downloads.parallel_folders import parallel_folders, refusal_of
from maskedclip.shards.downloads.patient_names import recognised
from maskedclip.shards.downloads.recognise import ARCHIVE, known_datasets
from maskedclip.shards.make import ShardRequest, build, builder_version
from maskedclip.shards.make_command import remark_lines
from maskedclip.shards.split_sizes import split_lines

logger = logging.getLogger(__name__)
TASK = "class"  # what the label of a tree is called
_CONVERT = "convert them to JPEG, PNG or TIFF"
_NAMED = 8  # folders in a message
_NO_CLASSES = {  # folders of a download that hold no class
    "image", "images", "img", "imgs", "photos", "mask", "masks", "label", "labels", "annotation",
    "annotations", "groundtruth", "groundtruths", "ground truth", "gt", "segmentation",
    "segmentations", "vessel", "vessels", "heatmap", "heatmaps", "results", "original", "originals",
    "manual", "1st_manual", "2nd_manual",
}  # fmt: skip
_NESTED = 2  # folders around the one with train/, as archives unpack


class Tree(NamedTuple):
    """A valid tree of images: a folder for every split, and in it a folder for every class.

    Or a folder for every class alone: then the splits are drawn.
    """

    root: Path
    name: str  # of the dataset
    fingerprint: str  # of names, sizes and times of the files


def as_shards(path: Path) -> Path:
    """Return a directory of shards as it is, and for a tree of images its shards, built if missing.

    Published train, val and test are kept; a missing val or test is split off by the usual rule.
    Raises ValueError, in one line, where `path` is a folder of neither kind.
    """
    tree = tree_of(path)
    if tree is None:
        return path
    out = _built(tree, path)
    _say_splits(out, path)
    return out


def _built(tree: Tree, path: Path) -> Path:
    out = _shards_of(tree)
    # the jobs of an array wait for the one that builds
    lock = out.parent / f".{out.name}.lock"
    with locked(lock, wait=True, without="a second job would build beside this one"):
        if not (out / MANIFEST).is_file():
            logger.info("%s: a tree of images; its shards go to %s", path, out)
            request = ShardRequest(
                dataset="folder", root=tree.root, out=out, name=tree.name, classes=TASK
            )
            manifest = build(request).manifest
            remarks = dict(manifest["remarks"])
            for known in remarks.pop("known_datasets", ()):
                logger.warning(
                    "%s holds %s; make_shards.py %s would know what its classes mean",
                    path, known, known.partition(":")[0],
                )  # fmt: skip
            command = f"make_shards.py folder --root {tree.root} --classes {TASK}"
            for line in remark_lines(remarks, command):
                logger.warning("%s: %s", path, line.removeprefix("WARNING: "))
            for one in manifest["rejected"]:
                logger.warning("left out: %s: %s", one["source"], one["reason"])
            _report_old(out)
    return out


def tree_of(path: Path) -> Tree | None:
    """Return the tree of images at a path; None where it is a dataset, or no directory.

    Its shards are made of what it lists, the images in train/, val/ and test/, and of no others.
    Raises ValueError, in one line, where it is a folder of neither kind, or a tree without clear
    classes.
    """
    if not path.is_dir() or _is_dataset(path):
        return None
    root = _with_train(path)
    if root is None:
        if third_party_tars(path):
            return None
        alone = _class_folders(path)
        if alone is None:
            raise ValueError(f"{path}: {_neither(path)}")
        return alone
    files, masks = photographs_below(read_card("folder"), root)
    try:
        splits = folder_splits(files.images)
        refuse_unclear(splits)
        files.leave_out(outside_of_splits(files.images, splits.of))
        _refuse_parallel(files, root)
        classes = folder_classes(files.images, splits.of)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None
    for source in _in_order(files):
        folder = source.rpartition("/")[0]
        if len(classes.levels[folder]) != 1:
            raise ValueError(
                f"{root / source}: lies {source.count('/')} folders deep; put it into "
                f"SPLIT/CLASS/, or use tools/make_shards.py csv with a table"
            )
    of_splits: dict[str, set[str]] = {}
    for folder, name in classes.of.items():
        of_splits.setdefault(split_of(folder, splits.of) or "train", set()).add(name)
    _check_classes(root, of_splits, files)
    return Tree(root, _name_of(path), _fingerprint(root, files, splits, classes, masks))


def _in_order(files: DownloadFiles) -> list[str]:
    return sorted(files.images, key=lambda name: name.split("/"))


def _refuse_parallel(files: DownloadFiles, root: Path) -> None:
    again = parallel_folders(files.images, root)
    if again:
        raise ValueError(refusal_of(again))


def _fingerprint(
    root: Path,
    files: DownloadFiles,
    splits: FolderSplits,
    classes: FolderClasses,
    masks: list[str],
) -> str:
    """Return the fingerprint of a tree's files, and of what earlier versions made other shards of.

    That is the same for a tree of which they made the same.
    """
    alone = "" if splits.of else " class folders"
    digest = hashlib.sha256(f"{builder_version(files.images)}{alone}".encode())
    for source in _in_order(files):
        digest.update(ascii((source, *size_and_time(root / source))).encode())
    if splits.of:
        if files.left_out:
            digest.update(b"without images beside the splits")
        if joined_spellings(classes.of.values())[0]:
            digest.update(b"with spellings joined")
    patients = recognised(sorted(files.images), classes=True)
    if patients or not splits.of:  # earlier versions read no names, or others
        digest.update(ascii(sorted(patients.items())).encode())
    said = [*splits.said, *classes.counts, *classes.no_classes, *masks]
    stems = {stem_of(source.rpartition("/")[2]) for source in files.images}
    said += sorted(stem for stem in stems if stem != original_stem(stem))
    if said:
        digest.update(ascii(said).encode())
    return digest.hexdigest()[:12]


def _name_of(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", path.resolve().name).strip("_") or "tree"


def _class_folders(path: Path) -> Tree | None:
    """Return the tree of a folder whose folders are classes, None where it does not look so.

    The classes may hold splits: CLASS/train, CLASS/test. Raises ValueError where an image lies
    elsewhere, or a folder is named as no class is.
    """
    given, path = path, _unwrapped(path)
    files, masks = photographs_below(read_card("folder"), path)
    splits = folder_splits(files.images)
    if splits.of and "train" not in splits.of.values():
        return None  # val/ and test/ without train/
    sources = _in_order(files)
    folders = sorted({source.split("/")[0] for source in sources if source.count("/") == 1})
    several = f"{len(folders)} folders of images, {', '.join(folders[:_NAMED])}"
    try:
        refuse_unclear(splits)
        _refuse_parallel(files, path)
        classes = folder_classes(files.images, splits.of)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    strange = [n for n in folders if is_pictures(n) or spelling_key(n).lower() in _NO_CLASSES]
    if len({spelling_key(name) for name in folders}) > 1 and strange:
        raise ValueError(
            f"{path}: {several}, would be classes, but {strange[0]} is the name of none; use "
            f"tools/make_shards.py (--list names the datasets that it knows)"
        )
    found = [names[0] for names in classes.levels.values() if len(names) == 1]
    if len({spelling_key(name) for name in found}) < 2:
        if len(classes.above) > 1 and all(len(names) > 1 for names in classes.levels.values()):
            raise ValueError(
                f"{path}: trees side by side ({', '.join(classes.above[:_NAMED])}) would be one "
                f"dataset; name one of them, or build with tools/make_shards.py folder --root "
                f"{path} --classes TASK"
            )
        return None
    elsewhere = [s for s in sources if len(classes.levels[s.rpartition("/")[0]]) != 1]
    if elsewhere:
        raise ValueError(
            f"{path}: {several}, would be classes, but {len(elsewhere)} images, such as "
            f"{elsewhere[0]}, lie in none of them; put each into CLASS/, or elsewhere"
        )
    root = path if path.name else path.resolve()  # "." has no name for what lies beside it
    return Tree(root, _name_of(given), _fingerprint(root, files, splits, classes, masks))


@lru_cache(maxsize=256)  # once a process: the cells of a study share it
def _say_splits(out: Path, path: Path) -> None:
    """Log the classes in their order, and who trains, validates and tests."""
    dataset = Shards(out)
    try:
        task = labelled(dataset, TASK)
        parts = division_of(dataset, task).parts
    except (ValueError, RuntimeError):
        return  # the caller comes to it, and says it as its own
    counts = [Counter(sample.label for sample in samples) for samples in parts.values()]
    named = [
        f"{name} {'/'.join(str(count[label]) for count in counts)}"
        for label, name in enumerate(task.classes)
    ]
    logger.info("%s: %d classes, %s: %s", path, len(named), "/".join(parts), ", ".join(named))
    for line in split_lines(dataset, TASK):
        logger.info("%s: %s", path, line)


def _is_dataset(path: Path) -> bool:
    """Return whether this is a dataset of shards, finished or not: its reader reports problems."""
    return (path / MANIFEST).exists() or (path / ".building").exists() or any(path.glob("*.idx"))


def _with_train(path: Path) -> Path | None:
    """Return the folder that holds train/: this one, or the only folder in it."""
    for _ in range(_NESTED + 1):
        inner = [e for e in sorted(path.iterdir()) if e.is_dir() and not is_junk(e.name)]
        if "train" in splits_beside(entry.name for entry in inner).values():
            return path
        if len(inner) != 1:
            return None
        path = inner[0]
    return None


def _unwrapped(path: Path) -> Path:
    """Return the folder that holds several: this one, or the only one in it, as archives unpack."""
    for _ in range(_NESTED):
        entries = [entry for entry in path.iterdir() if not is_junk(entry.name)]
        inner = [entry for entry in entries if entry.is_dir()]
        files = any(ending_of(e.name) in ENDINGS for e in entries if not e.is_dir())
        if len(inner) != 1 or files or is_pictures(inner[0].name):
            break
        path = inner[0]
    return path


def _neither(path: Path) -> str:
    """Return what a folder is that holds neither shards nor a tree of images, and what to do."""
    if datasets_below(path) or not any(path.iterdir()):
        return no_dataset(path)
    what = f"holds neither shards ({MANIFEST}, tars) nor a tree train/CLASS/*.jpg"
    files = list_files(read_card("folder"), path)
    archives = [source for source in files.others if ARCHIVE.search(source)]
    if files.images:
        example = min(files.images)
        count = f"{len(files.images)} images, such as {example}, but no folder train/"
        classes = " --classes TASK" if "/" in example else ""
        build = f"build shards with tools/make_shards.py folder --root {path}{classes}"
        here = [line for line in known_datasets(path, files) if line.endswith("are here")]
        if here:
            name = here[0].partition(":")[0]
            build = f"it looks like {name}: build it with tools/make_shards.py {name} --root {path}"
        return f"{what}: {count}; {build}"
    if archives:
        return f"{what}, but {archives[0]}; unpack it first"
    not_read = "; ".join(files_not_read(files)[:5])
    if not_read:
        return f"{what}, but {not_read}; {_CONVERT}"
    return f"{what}; name the folder that holds train/"


def _is_of_train(line: str) -> bool:
    return plain_split(line.partition("such as ")[2].partition("/")[0]) == "train"


def _check_classes(root: Path, classes: dict[str, set[str]], files: DownloadFiles) -> None:
    train = classes.get("train", set())
    keys = {spelling_key(name) for name in train}
    not_read = "; ".join(line for line in files_not_read(files) if _is_of_train(line))
    if not train and not_read:
        raise ValueError(f"{root}: train/ holds no image that is read: {not_read}; {_CONVERT}")
    if len(keys) < 2:
        also = f" ({not_read})" if not_read else ""
        raise ValueError(
            f"{root}: train/ holds images of {len(keys)} classes{also}, two are needed; put them "
            f"into one folder for each class"
        )
    for split, names in classes.items():
        unknown = sorted(name for name in names if spelling_key(name) not in keys)
        if unknown:
            raise ValueError(
                f"{root}: {split}/{unknown[0]} has no folder of that name in train/, which has "
                f"{', '.join(sorted(train)[:8])}; name them alike"
            )


def _shards_of(tree: Tree) -> Path:
    """Return the directory of the shards: beside the tree, or in the cache if not writable."""
    beside = tree.root.parent / f"{tree.root.name}_shards"
    if os.access(beside if beside.exists() else beside.parent, os.W_OK):
        return beside / tree.fingerprint
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise ValueError(
            f"{beside}: cannot be written, and HOME is not set; export XDG_CACHE_HOME=DIR"
        ) from None
    return cache / "maskedclip" / f"{tree.name}_shards" / tree.fingerprint


def _report_old(out: Path) -> None:
    old = [other for other in out.parent.iterdir() if other.is_dir() and other != out]
    if old:
        logger.info(
            "shards of an earlier state of the tree, which may be removed: %s",
            ", ".join(map(str, old)),
        )
