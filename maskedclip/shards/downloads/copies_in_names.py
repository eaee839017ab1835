"""Copies that file names state: X_flip, aug_0_X, X_jpg.rf.HASH, X (1), Copy of X, X - Copy.

A copy belongs where its original is, or the other copies of it: it gets their patient, and where
none is known they are one by themselves, so that no split parts them.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from maskedclip.shards.downloads.files import printable
from maskedclip.shards.downloads.image_names import stem_of
from maskedclip.shards.downloads.records import Record, Sources

COPIES, PARTED = "copies_in_names", "copies_in_another_split"  # remarks
UNKNOWN = "copies_of_unknown_images"  # a remark
_BEFORE = re.compile(  # as file managers name a copy: Copy of, copy_of_, Copy (2) of, Kopie von
    r"((copy|copie|kopie?|kopia|copia|c\u00f3pia)[\s_.+-]*(\(\d+\)|\d{1,2})?[\s_.+-]*"
    r"(of|von|van|de|di|af|av)([\s_.+-]+|(?=\d))|(?-i:CopyOf)(?=[A-Z]))+(?=.)",
    re.IGNORECASE,
)
_AXIS = "(?:h|v|hv|lr|ud|x|y|horizontal(?:ly)?|vertical(?:ly)?|left[_-]?right|up[_-]?down)"
# words that say a copy by themselves; "rot" alone is the red channel of German names
_STRONG = (
    rf"(?:{_AXIS}[_-]?)?(?:flip(?:ped)?|mirror(?:ed)?)(?:[_-]?{_AXIS})?(?:[_-]?\d{{1,2}})?"
    r"|(?:data[_-]?)?aug(?:mented|mentation)?(?:[_-]?(?!(?:19|20)\d\d(?!\d))\d{1,4}){0,2}"
    r"|rot(?:ate|ated|ation)?[_-]?-?\d{1,3}(?:deg(?:rees)?)?|rotat(?:e|ed|ion)"
)
_COPY = r"-?\s*copy(?:[\s_-]*\(?\d{1,3}\)?)?"
# words that may be of any name: they say a copy where the rest is the name of an image
_WEAK = (
    r"(?:gaussian[_-]?)?(?:blur(?:red)?|nois[ey]|noisy)|gaussian|bright(?:ness|ened|er)?"
    r"|dark(?:er|ened)?|contrast|gamma|clahe|crop(?:ped)?|zoom(?:ed)?|shift(?:ed)?|scaled?"
    r"|shear(?:ed)?|resized?|sharp(?:en|ened)?|jitter(?:ed)?|elastic|equali[sz]ed|hue|saturation"
    r"|translated?|warp(?:ed)?|distort(?:ed)?|enhanced|(?:pre)?processed|color|colou?rjitter|fl|r(?:90|180|270)"
)
_BETWEEN = r"[\s_.+-]+"
_ROBOFLOW = re.compile(r"(.+?)_(?:jpe?g|png|tiff?|bmp)\.rf\.[0-9a-zA-Z]{16,}", re.IGNORECASE)
_BEHIND = re.compile(rf"(.*?[^\s_.+-]){_BETWEEN}(?:{_STRONG}|{_COPY})", re.IGNORECASE)
_IN_FRONT = re.compile(
    rf"(?:{_AXIS}[_-]?)?(?:(?:data[_-]?)?aug(?:mented|mentation)?|flip(?:ped)?|mirror(?:ed)?"
    rf"|rot(?:ate|ated|ation)?[_-]?\d{{2,3}}|rotat(?:e|ed|ion)){_BETWEEN}(.*\w.*)",
    re.IGNORECASE,
)
# of aug_0_0012_OD; not of aug_0_3412, as Keras calls copies by a random number
_INDEX = re.compile(
    r"\d{1,3}[_-](?=\d)(?=.*[^\W\d_])|\d{1,3}[_-](?=(?!o[sd]|l|r)[^\W\d_].*\d)", re.I
)
_PERHAPS = re.compile(
    rf"(.*?[^\s_.+-])(?:{_BETWEEN}(?:{_WEAK})(?:[_-]?\d+(?:\.\d+)?)?|\s*\(\d{{1,2}}\))",
    re.IGNORECASE,
)
_MOST_NUMBERED = 9  # X (1), X (2) ... beside X: more are a series, whose first has no number
_MOST_COPIES = 100  # of an image


def before_copied(name: str) -> str:
    """Return what a file or folder was called before a file manager copied it: Copy of X."""
    normal = unicodedata.normalize("NFC", name)
    copy = _BEFORE.match(normal)
    return normal[copy.end() :] if copy else name


@lru_cache(maxsize=1 << 17)
def original_stem(stem: str) -> str:
    """Return the name of what a file is a copy of by its own name, the name itself for most."""
    name = before_copied(stem)
    for _ in range(8):  # X_flip_rot90 - Copy
        match = _ROBOFLOW.fullmatch(name) or _BEHIND.fullmatch(name) or _IN_FRONT.fullmatch(name)
        shorter = before_copied(match[1]) if match else name
        if match and match.re is _IN_FRONT:
            shorter = _INDEX.sub("", shorter, count=1) if _INDEX.match(shorter) else shorter
        if shorter == name or not re.search(r"[^\W_]", shorter):
            break
        name = shorter
    return name


def with_copies(sources: Sources) -> Sources:
    """Return the records with a patient for every image that has copies, and remarks on them."""
    groups, found = _groups(sources.records)
    patient_of: dict[str, str] = {}
    for name, members in groups.items():
        first = [one for one in members if one.source not in found]
        known = [one.patient for one in [*first, *members] if one.patient]
        patient_of |= {one.source: known[0] if known else f"image {name}" for one in members}
    records = [r._replace(patient=patient_of.get(r.source, r.patient)) for r in sources.records]
    said: dict[str, list[str]] = {}
    if groups:
        copies = [one for members in groups.values() for one in members if one.source in found]
        of = found[copies[0].source].rpartition("/")[2]
        said[COPIES] = [
            f"{len(copies)} of {len(groups)} originals, by their names, such as "
            f"{printable(copies[0].source)} of {printable(of)}; each stays with its original, as "
            f"of one patient"
        ]
    parted = [own for own in groups.values() if len({one.split or "train" for one in own}) > 1]
    if parted:
        said[PARTED] = [f"{sum(map(len, parted))} images and copies of them"]
    alone = [
        r.source
        for r in records
        if r.source not in patient_of
        and (stem := stem_of(r.source.rpartition("/")[2])) != original_stem(stem)
        and not _ROBOFLOW.fullmatch(stem)
    ]
    if alone:
        said[UNKNOWN] = [f"{len(alone)} images, such as {printable(alone[0])}"]
    return sources._replace(records=records, remarks=sources.remarks | said)


def _groups(records: Sequence[Record]) -> tuple[dict[str, list[Record]], dict[str, str]]:
    """Return the images of which one is a copy, by the place and name of what they are copies of.

    And that of every copy. The original is in the folder of the copy, else in the only other one of
    its class. A name that very many are copies of (dr_aug_1 to dr_aug_3000) is that of no image.
    """
    stem = {r.source: stem_of(r.source.rpartition("/")[2]) for r in records}
    by_name: defaultdict[str, list[Record]] = defaultdict(list)
    numbered: defaultdict[str, int] = defaultdict(int)
    for record in records:
        by_name[stem[record.source].casefold()].append(record)
        if match := re.fullmatch(r"(.*\S)\s*\(\d{1,2}\)", stem[record.source]):
            numbered[match[1].casefold()] += 1
    groups: dict[str, list[Record]] = {}
    found: dict[str, str] = {}
    for record in records:
        for base in _bases(stem[record.source]):
            sure = base.casefold() == original_stem(stem[record.source]).casefold()
            original = _original(record, by_name.get(base.casefold(), []))
            series = numbered[base.casefold()] > _MOST_NUMBERED * len(by_name[base.casefold()])
            if original and not (series and not sure):
                found[record.source] = f"{_folder(original)}/{base.casefold()}"
                break
        else:
            base = original_stem(stem[record.source])
            if base != stem[record.source]:  # the other copies of an original that is not here
                found[record.source] = f"{_class(record)}/{base.casefold()}"
    for record in records:
        own = f"{_folder(record)}/{stem[record.source].casefold()}"
        group = groups.setdefault(found.get(record.source, own), [])
        if group and record.source not in found and group[0].source not in found:
            found[record.source] = own  # 1.png beside 1.jpg, IMG1.jpg beside img1.jpg
        group.append(record)
    groups = {
        name: members
        for name, members in groups.items()
        if 1 < len(members) <= _MOST_COPIES and any(one.source in found for one in members)
    }
    return groups, found


def _bases(stem: str) -> Iterator[str]:
    """Yield the names that the original of a copy may have, the likeliest first."""
    sure = original_stem(stem)
    if sure != stem:
        yield sure
        front = _IN_FRONT.fullmatch(stem)
        rest = front[1] if front else ""
        while match := re.match(r"\d{1,5}[_-](?=.*\w)", rest):  # aug_0_X
            yield rest
            rest = rest[match.end() :]
            yield rest
    name = sure
    while match := _PERHAPS.fullmatch(name):
        name = match[1]
        yield name
        yield original_stem(name)


def _original(copy: Record, named: Sequence[Record]) -> Record | None:
    """Return the image of a name that is the original of a copy, None where there is none."""
    others = [one for one in named if one.source != copy.source]
    for alike in (
        [one for one in others if _folder(one) == _folder(copy)],
        [one for one in others if one.labels == copy.labels and one.split == copy.split],
        [one for one in others if one.labels == copy.labels],
    ):
        if alike:
            return alike[0] if len(alike) == 1 or _folder(alike[0]) == _folder(copy) else None
    return None


def _folder(record: Record) -> str:
    return record.source.rpartition("/")[0]


def _class(record: Record) -> str:
    return "|".join(f"{task}={label}" for task, label in sorted(record.labels.items()))
