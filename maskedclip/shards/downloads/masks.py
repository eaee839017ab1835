"""Masks, maps and drawings beside photographs: known by folder, by name or by content, left out.

A name alone says it where it can mean nothing else (x_mask.png, Groundtruths/). `_OD` is a disc or
the right eye, `_EX` exudates or a word: such files, and folders of unknown names, are looked into.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskedclip.data.photographs.decoding import FORMATS, PIXEL_LIMIT
from maskedclip.shards.downloads.cards import DatasetCard
from maskedclip.shards.downloads.files import DownloadFiles, list_files
from maskedclip.shards.downloads.folder_names import is_masks, is_pictures
from maskedclip.shards.downloads.image_names import stem_of

MASKS = "masks_left_out"  # a remark
# parts of a file's name: the first say a mask alone, the others where the file looks like one
_SURE = {
    "mask", "masks", "gt", "groundtruth", "seg", "segmentation", "manual1", "manual2", "annotation",
    "1stho", "2ndho", "heatmap", "gradcam", "overlay", "contour", "contours",
}  # fmt: skip
_PERHAPS = {
    "od", "oc", "os", "ex", "he", "ma", "se", "cup", "disc", "disk", "vessel", "vessels", "av",
    "ah", "vk", "bdp", "bss", "exudates", "haemorrhages", "hemorrhages", "microaneurysms", "label",
    "labels", "lesion", "lesions", "manual", "annotated", "segmented", "binary",
}  # fmt: skip
_OF_PHOTOGRAPHS = {"image", "img", "photo", "fundus", "original", "orig", "training", "test"}
_MOST_FOLDERS = 500  # that are looked into: of more, each is a patient
_SAMPLED = 3  # files of a folder
_FEW = 12  # colours
_GREY = 6  # mean difference between the colours of a pixel
_SPREAD, _APART = 8, 48  # of the greys of a mask that was compressed


class MaskName(NamedTuple):
    """A file name without the words of masks and photographs."""

    rest: tuple[str, ...]
    kind: str  # sure, perhaps or photograph


def photographs_below(card: DatasetCard, root: Path) -> tuple[DownloadFiles, list[str]]:
    """Return the files of a tree without masks among its images, and a line for each kind of them.

    Raises ValueError where the root is no directory.
    """
    files = list_files(card, root)
    lines = []
    of_folders = _in_folders(files.images, root)
    if len(of_folders) < len(files.images):  # else the folder is what the user wants
        files.leave_out([*of_folders], named=True)
        counts = Counter(of_folders.values())
        lines = [f"{folder}: {count} images" for folder, count in sorted(counts.items())]
    by_name = _by_name(files.images, root)
    if by_name and len(by_name) < len(files.images):
        files.leave_out(by_name, named=True)
        lines.append(f"{len(by_name)} files beside photographs, such as {by_name[0]}")
    return files, lines


def _in_folders(sources: Iterable[str], root: Path) -> dict[str, str]:
    """Return the images in folders of masks, each with that folder."""
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for source in sources:
        by_folder[source.rpartition("/")[0]].append(source)
    found: dict[str, str] = {}
    for folder, own in by_folder.items():
        named = _mask_folder(folder)
        if named and any(is_pictures(name) for name in folder[len(named) :].split("/")):
            named = named if _are_masks(root, own) else ""  # A. Segmentation/1. Original Images
        if not named and folder and len(by_folder) <= _MOST_FOLDERS and _are_masks(root, own):
            named = folder
        if named:
            found |= dict.fromkeys(own, named)
    return found


def _mask_folder(folder: str) -> str:
    """Return the first folder of a path whose name says masks and nothing else, "" for none."""
    parts = folder.split("/")
    for depth, name in enumerate(parts):
        if is_masks(name):
            return "/".join(parts[: depth + 1])
    return ""


def _by_name(sources: Iterable[str], root: Path) -> list[str]:
    """Return the masks that lie beside photographs, by their names and if need be their content."""
    named = {source: _named(source) for source in sources}
    photographs = {one.rest for one in named.values() if one.kind == "photograph"}
    places = Counter(_place(source) for source in named)
    found = []
    for source, one in named.items():
        beside = one.rest in photographs
        if one.kind == "sure":
            masks = beside or _looks(root / source) == "mask"
        elif one.kind == "perhaps":
            masks = beside and _looks(root / source) in ("mask", "blank")
        else:  # x.png beside x.jpg
            masks = places[_place(source)] > 1 and _looks(root / source) == "mask"
        if masks:
            found.append(source)
    return sorted(found)


def _place(source: str) -> str:
    folder, _, file = source.rpartition("/")
    return f"{folder}/{stem_of(file).casefold()}"


def _named(source: str) -> MaskName:
    words = re.findall(r"[^\W_]+", stem_of(source.rpartition("/")[2]).lower())
    words = [word for word in words if word not in _OF_PHOTOGRAPHS] or words
    for kind, known in (("sure", _SURE), ("perhaps", _PERHAPS)):
        if len(words) > 1 and (words[-1] in known or words[0] in known):
            rest = words[:-1] if words[-1] in known else words[1:]
            return MaskName(tuple(rest), kind)
    return MaskName(tuple(words), "photograph")


def _are_masks(root: Path, sources: list[str]) -> bool:
    """Return whether first, middle and last file of a folder are masks, or all but blank ones."""
    step = max(1, (len(sources) - 1) // (_SAMPLED - 1))
    looks = []
    for source in sources[::step][:_SAMPLED]:
        looks.append(_looks(root / source))
        if looks[-1] not in ("mask", "blank"):
            return False
    return "mask" in looks


def _looks(path: Path) -> str:
    """Return what a file looks like: mask (two to twelve colours), blank, photograph, or nothing.

    Masks that were stored as JPEG or resized are nearly all of three distant greys or fewer.
    """
    try:
        if not path.is_file():
            return ""
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                return ""
            image.draft("RGB", (256, 256))
            small = image.convert("RGB").resize((128, 128), Image.Resampling.NEAREST)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return ""  # the build says what is wrong with it
    colour_NC = np.asarray(small).reshape(-1, 3)
    colours = len(np.unique(colour_NC, axis=0))
    if colours <= _FEW:
        return "mask" if colours > 1 else "blank"
    if np.ptp(colour_NC, axis=1).mean() > _GREY:
        return "photograph"
    peaks: list[int] = []
    grey_N, left = colour_NC.mean(axis=1), len(colour_NC)
    while len(peaks) < 3 and len(grey_N) > 0.03 * left:
        peaks.append(int(np.bincount(grey_N.astype(int)).argmax()))
        grey_N = grey_N[np.abs(grey_N - peaks[-1]) > _SPREAD]
    apart = min((abs(a - b) for a, b in combinations(peaks, 2)), default=0)
    return "mask" if len(grey_N) <= 0.03 * left and apart >= _APART else "photograph"
