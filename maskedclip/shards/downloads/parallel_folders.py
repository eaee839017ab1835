"""Folders that hold the same pictures again: original/ and resized_48/, images/ and images_224/.

Found by equal paths below two folders of one folder. Classes may count their images alike, so
names of processing (resized, cropped) or the pictures themselves have to say it, too.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

from maskedclip.data.photographs.decoding import UnreadableImage
from maskedclip.data.photographs.image_file import read_image_file
from maskedclip.shards.downloads.folder_names import is_pictures, plain_split, words_of
from maskedclip.shards.downloads.image_names import stem_of

_PROCESSED = {
    "original", "originals", "orig", "raw", "resized", "resize", "cropped", "crop", "crops",
    "preprocessed", "processed", "enhanced", "clahe", "gray", "grey", "grayscale", "green",
    "gaussian", "filtered", "normalized", "normalised", "small", "large", "compressed", "denoised",
    "equalized", "hd", "unprocessed", "images", "image", "imgs",
    "roi", "cfp", "cfps",
}  # fmt: skip
_AUGMENTED = {"augmented", "aug", "augmentation", "augmentations"}
_CHANGED = _PROCESSED | _AUGMENTED
_FIRST = {"original", "originals", "orig", "raw", "images", "image", "imgs", "cfp", "cfps"}
_BESIDE = _PROCESSED | _AUGMENTED | {
    "img", "photos", "fundus", "retinal", "color", "colour", "data", "dataset", "set", "jpg",
    "jpeg", "png", "tif", "px", "size", "folder", "version", "copy", "filter", "the", "and",
    "release",
}  # fmt: skip
_MOST = 40  # folders beside each other that are compared
_LEAST_SHARED = 0.5  # of the images of the smaller folder
_COMPARED = 5  # pairs of pictures
_SAME_BITS = 10  # of 64 of the perceptual hash: two eyes are mostly 20 or more apart


def parallel_folders(sources: Iterable[str], root: Path) -> list[str]:
    """Return a line for every folder that holds the pictures of another one again."""
    sources = list(sources)
    names_in: defaultdict[str, set[str]] = defaultdict(set)
    for folder in {source.rpartition("/")[0] for source in sources}:
        parts = folder.split("/") if folder else []
        for depth, name in enumerate(parts):
            names_in["/".join(parts[:depth])].add(name)
    lines = []
    for above in sorted(names_in, key=lambda folder: (folder.count("/"), folder)):
        here = f"{above}/" if above else ""
        named = {name for name in names_in[above] if not _words(name).isdisjoint(_CHANGED)}
        # the others: sites or datasets with classes in them
        names = named | {name for name in names_in[above] if here + name in names_in}
        names = {
            name for name in (names if len(names) <= _MOST else named) if not plain_split(name)
        }
        if len(names) > _MOST or not names:
            continue
        below = {name: _below(sources, f"{here}{name}/") for name in sorted(names)}
        for one, other in combinations(below, 2):
            if reason := _again(one, other, below[one], below[other], root):
                lines.append(f"{here}{one} and {here}{other}: {reason}")
        for name in sorted(named & names if not lines else ()):  # CLASS and resized/CLASS
            beside = [
                s for s in sources if s.startswith(here) and not s.startswith(here + name + "/")
            ]
            rest = _below(beside, here)
            reason = _again(name, "images", below[name], rest, root) if rest else ""
            if reason and _words(name) & _CHANGED - _FIRST:
                lines.append(f"the folders beside it and {here}{name}: {reason}")
    return lines


def _words(name: str) -> set[str]:
    return {word for word in words_of(name) if word.isalpha() and len(word) > 1}


def _below(sources: Iterable[str], folder: str) -> dict[str, str]:
    """Return the images below a folder by their path there, without endings and case."""
    found = {}
    for source in sources:
        if source.startswith(folder):
            *inner, file = source[len(folder) :].split("/")
            inner = [n for n in inner if not is_pictures(n) and not folder.endswith(f"{n}/")]
            inner = [plain_split(name) or name.casefold() for name in inner]
            found["/".join([*inner, stem_of(file).casefold()])] = source
    return found


def refusal_of(lines: list[str]) -> str:
    """Return what is wrong with a tree of such folders, and how to mend it."""
    pair = [path.rpartition("/")[2] for path in lines[0].partition(":")[0].split(" and ")]
    name = next((name for name in pair if _words(name) & _CHANGED - _FIRST), pair[-1])
    return (
        f"{lines[0]}: pictures would be there twice; leave one out with make_shards.py folder "
        f"--exclude='{name}', or move it elsewhere"
    )


def _again(
    one: str, other: str, first: Mapping[str, str], second: Mapping[str, str], root: Path
) -> str:
    """Return why two folders beside each other hold the same pictures, "" where they do not."""
    words = [_words(one), _words(other)]
    augmented = [bool(own & _AUGMENTED) and own <= _BESIDE for own in words]
    if sorted(augmented) == [False, True]:
        plain = other if augmented[0] else one
        if is_pictures(plain) or words[augmented[0]] & _PROCESSED:
            return "one is of augmented copies of the other"
    shared = sorted(first.keys() & second.keys())
    if len(shared) < max(2, _LEAST_SHARED * min(len(first), len(second))):
        return ""
    said = f"the same {len(shared)} names in both, such as {first[shared[0]]}"
    if all(own <= _BESIDE for own in words) and any(own & _PROCESSED for own in words):
        return said
    if all("/" in path for path in shared) or all(own & _PROCESSED for own in words):
        pairs = shared[:: max(1, len(shared) // _COMPARED)][:_COMPARED]
        if all(_alike(root / first[path], root / second[path]) for path in pairs):
            return f"{said}, and the same pictures"
    return ""


def _alike(one: Path, other: Path) -> bool:
    """Return whether two files look like one photograph, whatever their size and crop."""
    from maskedclip.shards.building.prepare_sample import field_photograph, perceptual_hash

    try:
        bits = [
            int(perceptual_hash(field_photograph(read_image_file(path), 256).image_HWC), 16)
            for path in (one, other)
        ]
    except UnreadableImage:
        return False
    return (bits[0] ^ bits[1]).bit_count() <= _SAME_BITS
