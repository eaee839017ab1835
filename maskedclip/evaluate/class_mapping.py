"""Which classes of a dataset are those that a network learnt, where another one named them."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maskedclip.data.class_names import spelling_key
from maskedclip.data.class_order import (
    diseases_in,
    nothing_found,
    places_on_a_scale,
    says_what,
)


class ClassMapping(NamedTuple):
    """Pairs of classes that are one, and those that have no counterpart."""

    pairs: dict[str, str]  # of the dataset -> of the network, in the order of the network
    theirs: tuple[str, ...]  # of the dataset alone
    ours: tuple[str, ...]  # of the network alone

    @property
    def renamed(self) -> dict[str, str]:
        """The pairs whose names differ."""
        return {theirs: ours for theirs, ours in self.pairs.items() if theirs != ours}


def map_classes(
    ours: Sequence[str],
    theirs: Sequence[str],
    our_meanings: Sequence[str] = (),
    their_meanings: Sequence[str] = (),
) -> ClassMapping:
    """Return which of `theirs` are which of `ours`: the first of these ways that gives a pair.

    The same name; the same name in another spelling (Normal and NORMAL, 0 and 0.0); the same
    meaning (the grade 0 of a known task and "no diabetic retinopathy"); the same place on a scale
    of severity of one disease (mild, and "Mild NPDR"); and two words that nothing was found
    (normal, healthy). A pair has to be the only one of its kind on both sides.
    """
    meanings = dict(zip(ours, our_meanings or ours, strict=True))
    their_meaning = dict(zip(theirs, their_meanings or theirs, strict=True))
    place_of = _places(list(meanings.values()), list(their_meaning.values()))
    ways: list[tuple[Callable[[str], object], Callable[[str], object]]] = [
        (lambda name: name, lambda name: name),
        (spelling_key, spelling_key),
        (lambda name: spelling_key(meanings[name]), lambda name: spelling_key(their_meaning[name])),
        (lambda name: place_of.get(meanings[name]), lambda name: place_of.get(their_meaning[name])),
        (
            lambda name: nothing_found(meanings[name]) or None,
            lambda name: nothing_found(their_meaning[name]) or None,
        ),
    ]
    pairs: dict[str, str] = {}
    for our_key, their_key in ways:
        free = [name for name in ours if name not in pairs.values()]
        rest = [name for name in theirs if name not in pairs]
        own = _unique({name: our_key(name) for name in free})
        for key, name in _unique({name: their_key(name) for name in rest}).items():
            if key in own:
                pairs[name] = own[key]
    order = {name: label for label, name in enumerate(ours)}
    pairs = dict(sorted(pairs.items(), key=lambda pair: order[pair[1]]))
    return ClassMapping(
        pairs,
        tuple(name for name in theirs if name not in pairs),
        tuple(name for name in ours if name not in pairs.values()),
    )


def without_other_diseases(
    mapping: ClassMapping, our_task: str, their_task: str
) -> tuple[ClassMapping, tuple[str, ...]]:
    """Return the pairs that can be one, and those that are taken on trust.

    Where the tasks are not about one disease, mild and mild, yes and yes or 2 and 2 need not be the
    same: they are no pairs where the tasks name different diseases, and on trust where one of them
    names none. Classes that say what they are of (mild DR) or that nothing was found are pairs.
    """
    ours, theirs = diseases_in(our_task), diseases_in(their_task)
    bare = tuple(
        name
        for name, own in mapping.pairs.items()
        if not (says_what(name) or says_what(own) or nothing_found(name))
    )
    if our_task == their_task or (ours and ours == theirs) or not bare:
        return mapping, ()
    if not (ours and theirs):
        return mapping, bare
    kept = {name: own for name, own in mapping.pairs.items() if name not in bare}
    lost = tuple(mapping.pairs[name] for name in bare)
    return ClassMapping(kept, (*mapping.theirs, *bare), (*mapping.ours, *lost)), ()


def shifted_grades(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Return whether two scales of as many grades begin at another number: 1 to 5, and 0 to 4."""
    if not all(name.isdecimal() for name in (*ours, *theirs)) or len(ours) != len(theirs):
        return False
    one, other = (sorted(map(int, names)) for names in (ours, theirs))
    whole = all(names == list(range(names[0], names[0] + len(names))) for names in (one, other))
    return whole and len(one) > 2 and one[0] != other[0]


def _unique(key_of: dict[str, object]) -> dict[object, str]:
    """Return the name of each key that one name alone has; None is no key."""
    count = Counter(key_of.values())
    return {key: name for name, key in key_of.items() if key is not None and count[key] == 1}


def _places(ours: list[str], theirs: list[str]) -> dict[str, float]:
    """Return each name's place on the scale that all names of both sides are of; else nothing."""
    names = list(dict.fromkeys([*ours, *theirs]))
    places = places_on_a_scale(names)
    return dict(zip(names, places, strict=True)) if places else {}
