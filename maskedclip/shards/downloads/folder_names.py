"""What the folders of a tree are by their names: splits, classes, and levels that are neither.

Names are read in their place: `train_50` is no split beside `train`, and `images` no class where
each class has a folder of that name.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from maskedclip.data.class_names import spelling_key
from maskedclip.shards.downloads.files import SPLITS

# of other tongues, without accents
_WORDS = SPLITS | {
    **dict.fromkeys(
        ("trn", "trainings", "entrainement", "apprentissage", "entrenamiento"), "train"
    ),
    **dict.fromkeys(("treino", "treinamento", "addestramento", "\u8bad\u7ec3"), "train"),
    **dict.fromkeys(("validierung", "validierungs", "validacion", "validacao"), "val"),
    **dict.fromkeys(("validazione", "validate", "\u9a8c\u8bc1"), "val"),
    **dict.fromkeys(("tst", "tests", "prueba", "pruebas", "teste", "testes"), "test"),
    "\u6d4b\u8bd5": "test",
}
_GLUED = re.compile(
    rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})"
    "(sets?|data|daten|images?|imgs?|bilder|\u96c6)"
)
_SHORT = {"tr": "train", "va": "val", "vl": "val", "te": "test", "ts": "test"}  # only together
# what else the name of a split says: "a. Training Set", "Test-set 1", "train_images_512"
_BESIDE_SPLIT = {
    "set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "photo",
    "photos", "picture", "pictures", "split", "splits", "folder", "subset", "part", "fundus",
    "retinal", "color", "colour", "jpg", "jpeg", "png", "tif", "original", "originals", "raw",
    "cropped", "resized", "processed", "preprocessed", "on", "off", "site", "onsite", "offsite",
    "px", "the", "of", "for", "daten", "bilder", "\u96c6",
}  # fmt: skip
_PICTURES = {
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "original",
    "originals", "raw", "jpg", "jpeg", "png", "tif", "tiff", "cfp", "cfps", "fundusimages",
    "preprocess", "preprocessed", "processed", "resized", "cropped",
}  # fmt: skip
_BESIDE_PICTURES = _PICTURES | {
    "fundus", "retinal", "retina", "color", "colour", "the", "all", "data", "dataset", "set",
    "files", "folder", "enhanced", "px",
}  # fmt: skip
_MASKS = {
    "mask", "masks", "groundtruth", "groundtruths", "truth", "truths", "gt", "seg", "segs",
    "segmentation", "segmentations", "annotation", "annotations", "manual", "vessel", "vessels",
    "labels", "annotated", "heatmap", "heatmaps", "gradcam", "saliency", "overlay", "overlays",
    "contour", "contours",
}  # fmt: skip
_BESIDE_MASKS = _MASKS | {
    "ground", "image", "images", "img", "disc", "disk", "cup", "optic", "od", "oc", "av", "binary",
    "all", "the", "and", "expert", "experts", "st", "nd", "map", "maps", "lesion", "lesions",
    "training", "train", "validation", "val", "test", "testing", "set", "fundus", "retinal",
    "retina", "groud", "ah", "vk", "blood", "hard", "soft", "exudates", "haemorrhages",
    "hemorrhages", "microaneurysms",
}  # fmt: skip
_COUNTED = {  # of folders within classes: left, visit 2, fold_3, Camera A
    "left", "right", "od", "os", "l", "r", "eye", "eyes", "visit", "visits", "session", "fold",
    "batch", "part", "site", "center", "centre", "hospital", "camera", "device", "week", "month",
    "year", "day", "series", "set", "folder", "subset", "group",
}  # fmt: skip
_GRADES = {
    "grade", "class", "stage", "level", "dr", "type", "severity", "category", "label", "score",
    "amd", "dme", "rop", "cluster", "c", "g", "r", "n", "p",
}  # fmt: skip
_FEWEST_PATIENTS = 10  # folders: fewer may be classes of few images
_MOST_OF_A_PATIENT = 10  # images, on average
_COPY = re.compile(r"(\s*-\s*|[\s_])copy(\s*\(\d+\))?$", re.IGNORECASE)
_COUNT = re.compile(r"\s*(\(\s*\d+\s*\)|\[\s*\d+\s*\])\s*$")


class SplitName(NamedTuple):
    """What the name of a folder says of a split."""

    split: str  # train, val or test
    others: tuple[str, ...]  # words that a split's name does not have: glaucoma of glaucoma_train


def words_of(name: str) -> list[str]:
    """Return the words and numbers of a folder's name in lower case: 1. TrainSet -> 1 train set."""
    text = unicodedata.normalize("NFKD", name)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text).lower()
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    words: list[str] = []
    for word in re.findall(r"[^\W\d_]+|\d+", text):
        glued = _GLUED.fullmatch(word)
        words += glued.groups() if glued else [word]
    return words


def split_name(name: str) -> SplitName | None:
    """Return the split that a folder's name holds, None where it holds none, or train and test."""
    words = words_of(name)
    splits = {_WORDS[word] for word in words if word in _WORDS}
    if splits == {"train", "val"}:
        splits = {"train"}  # train_val/ beside test/: the validation split is drawn from it
    if len(splits) != 1:
        return None
    others = [
        word
        for word in words
        if word not in _WORDS
        and word not in _BESIDE_SPLIT
        and not word.isdecimal()
        and len(word) > 1  # a. or B)
    ]
    return SplitName(splits.pop(), tuple(others))


@lru_cache(maxsize=1 << 14)
def plain_split(name: str) -> str:
    """Return the split that a folder's name says and nothing else, such as Test_set 1, else ""."""
    said = split_name(name)
    return said.split if said and not said.others else ""


@lru_cache(maxsize=1 << 14)
def is_pictures(name: str) -> bool:
    """Return whether a folder's name says that it holds images, and no more: Original Images."""
    words = [word for word in words_of(name) if len(word) > 1 and not word.isdecimal()]
    return not _PICTURES.isdisjoint(words) and _BESIDE_PICTURES.issuperset(words)


@lru_cache(maxsize=1 << 14)
def is_masks(name: str) -> bool:
    """Return whether a folder's name says masks or the like, and no more: Disc_Cup_Masks."""
    words = {word for word in words_of(name) if len(word) > 1 and not word.isdecimal()}
    return not _MASKS.isdisjoint(words) and words <= _BESIDE_MASKS


class FolderSplits(NamedTuple):
    """The folders that are splits, and what is said of them."""

    of: dict[str, str]  # of a folder's path
    said: list[str]  # a line for each that is not called train, val or test alone
    unclear: list[str]  # folders such as glaucoma_train, which say a split and more
    nested: list[str]  # folders of one split in another one, such as train/valid


def splits_beside(names: Iterable[str]) -> dict[str, str]:
    """Return which of the folders of one folder are splits, by their names alone."""
    return _splits_beside({*names}, "", set())[0]


def folder_splits(sources: Iterable[str]) -> FolderSplits:
    """Return which folders of the images are splits, each by its name and those beside it."""
    holding = _folders_of(sources)
    beside: defaultdict[str, set[str]] = defaultdict(set)
    for folder in holding:
        parts = folder.split("/") if folder else []
        for depth, name in enumerate(parts):
            beside["/".join(parts[:depth])].add(name)
    found = FolderSplits({}, [], [], [])
    # images/ in a folder is that folder's
    holding |= {f.rpartition("/")[0] for f in holding if is_pictures(f.rpartition("/")[2])}
    for above in sorted(beside):
        splits, unclear = _splits_beside(beside[above], above, holding)
        prefix = f"{above}/" if above else ""
        found.of.update({prefix + name: split for name, split in splits.items()})
        found.unclear.extend(prefix + name for name in unclear)
    for folder in [f for f in found.of if _is_both(f.rpartition("/")[2])]:
        if any(other.startswith(f"{folder}/") for other in found.of):
            del found.of[folder]  # train_val_data/train, train_val_data/val
    for folder in sorted(found.of):
        outer = split_of(folder.rpartition("/")[0], found.of)
        if outer not in (None, found.of[folder]):
            found.nested.append(folder)
        if folder.rpartition("/")[2].lower() not in SPLITS:
            found.said.append(f"{folder} is {found.of[folder]}")
    return found


def _is_both(name: str) -> bool:
    return {"train", "val"} <= {_WORDS.get(word) for word in words_of(name)}


def refuse_unclear(splits: FolderSplits) -> None:
    """Raise ValueError for folders such as glaucoma_train, and train/valid."""
    if splits.unclear:
        more = f" and {len(splits.unclear) - 1} more" if splits.unclear[1:] else ""
        raise ValueError(
            f"{splits.unclear[0]}{more}: the name says a split and something else; is that a "
            f"class? put the images into train/CLASS/ and test/CLASS/"
        )
    if splits.nested:
        raise ValueError(
            f"{splits.nested[0]}: a split within another split; move it out, or leave it out"
        )


def _splits_beside(
    names: set[str], above: str, holding: set[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the splits among the folders of one folder, and those that say a split and more."""
    splits = {name: SPLITS[name.lower()] for name in names if name.lower() in SPLITS}
    short = {name: _SHORT[name.lower()] for name in names if name.lower() in _SHORT}
    if not splits and {"train", "test"} <= {*short.values()}:
        return short, []
    exact = {*splits.values()}
    rest = {n: s for n in names - splits.keys() if (s := split_name(n)) and s.split not in exact}
    splits |= {name: said.split for name, said in rest.items() if not said.others}
    if "train" in splits.values():
        if "test" in splits.values() and "val" not in splits.values():
            splits |= {n: "val" for n in names - splits.keys() if _is_evaluation(n)}  # RFMiD
        return splits, []
    more = {name: said for name, said in rest.items() if said.others}
    if len({said.split for said in more.values()} | {*splits.values()}) < 2:
        return splits, []  # one folder such as APTOS_train holds all
    one_set = len({said.others for said in more.values()}) == 1
    prefix = f"{above}/" if above else ""
    if one_set or not any(prefix + name in holding for name in more):
        return splits | {name: said.split for name, said in more.items()}, []
    return splits, sorted(more)


def _is_evaluation(name: str) -> bool:
    words = {*words_of(name)} - _BESIDE_SPLIT
    return bool(words) and words <= {"evaluation", "eval"}


class FolderClasses(NamedTuple):
    """The class of every image by its folders, and what is said of the other folders."""

    of: dict[str, str]  # of a folder that holds images; "" where none of its path is a class
    levels: dict[str, list[str]]  # of such a folder, its class and those above it that are no split
    counts: list[str]  # a line for every class whose folders hold a count: DR (1200), DR (300)
    no_classes: list[str]  # a line for every name that lies in each class: ORIGA
    above: list[str]  # a line for the folders above those of the classes: sites, folds, datasets
    over_splits: list[str]  # classes whose folders hold splits: glaucoma/train


def folder_classes(sources: Iterable[str], splits: Mapping[str, str]) -> FolderClasses:
    """Return the class of every folder: the last of its path that is a class by its name.

    None are splits, images/, and the one name that lies in each class. Raises ValueError where the
    last folders are rather patients, and for a class beside a copy of its folder.
    """
    images = Counter(source.rpartition("/")[0] for source in sources)
    levels = {folder: _levels(folder, splits) for folder in images}
    no_classes: Counter[str] = Counter()
    while dropped := _no_classes(levels.values()):
        for folder, names in levels.items():
            if names:
                no_classes[names[-1] if len(dropped) == 1 else ", ".join(sorted(dropped))] += 1
                levels[folder] = names[:-1]
    alone = {names[-1] for names in levels.values() if names}
    if len(alone) == 1 and not any(folder.split("/")[-1] in alone for folder in levels):
        levels = {folder: [] for folder in levels}  # ODIR-5K/Training Images/
    _refuse_patients(images, levels)
    of, counts = _without_counts(levels)
    above: Counter[str] = Counter()
    for folder, names in levels.items():
        if names:
            above["/".join(names[:-1])] += images[folder]
    return FolderClasses(
        of,
        levels,
        counts,
        [f"{name}: in {count} folders" for name, count in sorted(no_classes.items())],
        [f"{name}: {n} images" for name, n in sorted(above.items()) if name and len(above) > 1],
        sorted({name for folder, name in of.items() if name and _is_over_split(folder, splits)}),
    )


def _is_over_split(folder: str, splits: Mapping[str, str]) -> bool:
    """Return whether the last split of a path lies below its last class."""
    parts = folder.split("/")
    kinds = ["/".join(parts[: depth + 1]) in splits for depth in range(len(parts))]
    classes = [d for d, name in enumerate(parts) if not kinds[d] and not is_pictures(name)]
    return bool(classes) and any(kinds[classes[-1] :])


def _levels(folder: str, splits: Mapping[str, str]) -> list[str]:
    """Return the folders of a path that may be a class or above one."""
    parts = folder.split("/") if folder else []
    names: list[str] = []
    if any(map(is_masks, parts)):  # A. Segmentation/Original Images: of no class
        return names
    prefixes = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    for depth, name in enumerate(parts):
        said = split_name(name)
        again = said and said.split in [splits.get(prefix) for prefix in prefixes[:depth]]
        if is_pictures(name):  # of a part of a download: B. Grading/1. Original Images/a. Train
            names = [] if any(prefix in splits for prefix in prefixes[depth:]) else names
        elif not (prefixes[depth] in splits or again or name in names[-1:]):
            names.append(name)
    return names


def _is_counted(name: str) -> bool:
    words = {word for word in words_of(name) if word.isalpha()}
    words -= {word for word in words if len(word) == 1} - {"l", "r"}  # Camera A
    return bool(words) and words <= _COUNTED


def _no_classes(levels: Iterable[list[str]]) -> set[str]:
    """Return the names of the last folders of all paths where they are no classes, below others.

    That is one name for all, such as glaucoma/ORIGA, or eyes, visits, folds and the like.
    """
    paths = [names for names in levels if names]
    last = {names[-1] for names in paths}
    above = {names[-2] if names[1:] else "" for names in paths}
    counted = all(map(_is_counted, last))
    return last if (len(last) == 1 or counted) and len(above) > 1 and "" not in above else set()


def refuse_two_levels(levels: Mapping[str, list[str]]) -> None:
    """Raise ValueError where a folder would be a class, and hold another one: DR, DR/full."""
    paths = {tuple(names): folder for folder, names in sorted(levels.items()) if names}
    for names, folder in paths.items():
        if names[:-1] in paths:
            raise ValueError(
                f"{paths[names[:-1]]} and {folder}: both would be classes, one within the other; "
                f"put the images of a class into one folder, or --exclude one of make_shards.py"
            )


def numbered_classes(names: Iterable[str]) -> list[str]:
    """Return a line where classes differ in a number alone, and are no grades: Base11, Base12."""
    names = sorted(set(names))
    words = {tuple(word for word in words_of(name) if word.isalpha()) for name in names}
    word = words.pop() if len(words) == 1 else ()
    if len(names) < 2 or not word or not _GRADES.isdisjoint(word):
        return []
    return [f"{', '.join(names[:8])} (are they parts of the download?)"]


def _refuse_patients(images: Mapping[str, int], levels: Mapping[str, list[str]]) -> None:
    """Raise ValueError where the folders of the images look like patients, and not like classes."""
    named = {folder: names for folder, names in levels.items() if names}
    inner = {names[-1] for names in named.values()}
    outer = {names[-2] for names in named.values() if names[1:]}
    paths = {tuple(names) for names in named.values()}  # of all splits together
    few = sum(images[folder] for folder in named) <= _MOST_OF_A_PATIENT * len(paths)
    numbered = sum(bool(re.search(r"\d", name)) for name in inner) > 0.9 * len(inner)
    least = _FEWEST_PATIENTS if outer else 4 * _FEWEST_PATIENTS
    if len(inner) >= max(least, 4 * len(outer)) and few and numbered:
        raise ValueError(
            f"{len(inner)} folders such as {min(named)} would be classes, and look like patients; "
            f"put the images into a folder for each class, or use make_shards.py csv with a table"
        )


def _without_counts(levels: Mapping[str, list[str]]) -> tuple[dict[str, str], list[str]]:
    """Return the class of every folder without a number of images in brackets: DR (1200).

    Not where two folders beside each other would be one: Grade (1), Grade (2). Raises ValueError
    where the class without the number is beside it, and for DR - Copy beside DR.
    """
    of = {folder: names[-1] if names else "" for folder, names in levels.items()}
    short = {folder: _plain(name) for folder, name in of.items() if name}
    beside: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for folder, name in short.items():
        beside[folder_above(folder, of[folder]), spelling_key(name)].add(of[folder])
    for (place, _), names in sorted(beside.items()):
        plain = sorted(names, key=len)
        if len({_plain(name) == name for name in names}) > 1:
            raise ValueError(
                f"{place + '/' if place else ''}{plain[0]} and {plain[-1]}: one class, or a copy "
                f"of its folder? rename one, or put the images into one folder"
            )
    if any(len(names) > 1 for names in beside.values()) or not all(short.values()):
        return of, []
    of |= short
    written: defaultdict[str, set[str]] = defaultdict(set)
    for folder, name in short.items():
        written[name].add(levels[folder][-1])
    return of, [
        f"{name}: of {', '.join(sorted(texts))}"
        for name, texts in sorted(written.items())
        if texts - {name}
    ]


def _plain(name: str) -> str:
    return _COUNT.sub("", _COPY.sub("", name))


def folder_above(folder: str, name: str) -> str:
    """Return the path of a folder up to the last one of a name, without that."""
    parts = folder.split("/")
    return "/".join(parts[: len(parts) - 1 - parts[::-1].index(name)])


def outside_of_splits(sources: Iterable[str], splits: Mapping[str, str]) -> list[str]:
    """Return the images beside the split folders of a tree: external_test, dev, train_50 ...

    A folder that holds train/ is a tree, and what lies in it but not in train/, val/ or test/ is no
    part of it; nor are folders beside it without such folders. Raises ValueError where two folders
    of a tree are one split, both by the plain word: val and validation.
    """
    places = {folder: _split_folder(folder, splits) for folder in _folders_of(sources)}
    folders_of: dict[str, dict[str, set[str]]] = {}  # of a folder, a split
    for above, name in places.values():
        if name:
            split = splits[f"{above}/{name}" if above else name]
            folders_of.setdefault(above, {}).setdefault(split, set()).add(name)
    trees = {above for above, of_split in folders_of.items() if "train" in of_split}

    def is_outside(folder: str) -> bool:
        above, name = places[folder]
        parts = above.split("/") if above else []
        if any("/".join(parts[:depth]) in trees for depth in range(len(parts))):
            return True  # a copy of a tree within a tree
        return not name and (above in trees or bool(trees and above))

    outside = {folder for folder in places if is_outside(folder)}
    for above in sorted(trees & {places[folder][0] for folder in places.keys() - outside}):
        for split, names in sorted(folders_of[above].items()):
            plain = sorted(name for name in names if name.lower() in SPLITS)
            if len(plain) > 1:
                here, alike = f"{above}/" if above else "", " and ".join(plain)
                raise ValueError(f"{here}{alike}: both are the split {split}; keep one of them")
    return [source for source in sources if source.rpartition("/")[0] in outside]


def split_of(folder: str, splits: Mapping[str, str]) -> str | None:
    """Return the split of a folder that holds images, None where no folder of its path is one."""
    above, name = _split_folder(folder, splits)
    return splits[f"{above}/{name}" if above else name] if name else None


def _folders_of(sources: Iterable[str]) -> set[str]:
    return {source.rpartition("/")[0] for source in sources}


def _split_folder(folder: str, splits: Mapping[str, str]) -> tuple[str, str]:
    """Return the first folder of a path that is a split, after the one it lies in.

    The path itself and "" where there is none.
    """
    parts = folder.split("/") if folder else []
    for depth, name in enumerate(parts):
        if "/".join(parts[: depth + 1]) in splits:
            return "/".join(parts[:depth]), name
    return folder, ""


def splits_in_names(sources: Iterable[str]) -> list[str]:
    """Return a line where nearly all file names say train or test: train_12.jpg, 3_test.jpg."""
    counts: Counter[str] = Counter()
    for source in sources:
        words = words_of(source.rpartition("/")[2])
        splits = {_WORDS[word] for word in words if word in _WORDS}
        counts[splits.pop() if len(splits) == 1 else ""] += 1
    none = counts.pop("", 0)
    if not {"train", "test"} <= counts.keys() or none > 0.1 * counts.total():
        return []
    listed = ", ".join(f"{split} {count}" for split, count in sorted(counts.items()))
    return [f"{listed} by file name, not taken as the split; sort them into train/ and test/"]
