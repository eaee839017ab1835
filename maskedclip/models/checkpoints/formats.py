"""Third-party encoders: how to recognise each, its preprocessing, its pre-training data.

All that sets one apart is a card, a TOML file of models/cards; its tensor names are mapped in
`key_mapping.py`, and its network is built in `architectures.py`.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

CARDS = Path(__file__).resolve().parents[1] / "cards"  # package data: pip installs them
Family = Literal["vit", "eva", "resnet50"]
Pooling = Literal["mean", "cls"]
Values = tuple[float, ...]
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, of 0 to 1
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BARE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_COLOURS = {"imagenet": _IMAGENET, "clip": _OPENAI, "half": _HALF, "none": _BARE}
# how a card's images come into the square
_FITS: dict[str, dict[str, bool]] = {
    "crop": {}, "canvas": {"whole": True}, "squash": {"squash": True}
}  # fmt: skip


class Preparation(NamedTuple):
    """How an image is preprocessed for a network; by default as for ours and MAE's."""

    image_size: int = 224  # pixels, square
    mean: Values = _IMAGENET[0]  # of values from 0 to 1
    std: Values = _IMAGENET[1]
    resize: float = 256 / 224  # of the size: the shorter side before the middle is cut out
    interpolation: str = "bicubic"
    whole: bool = False  # nothing is cut off: the longer side fills the square, the rest is black
    squash: bool = False  # nothing is cut off: both sides are brought to the size

    @property
    def colours(self) -> str:
        """The name of the mean and deviation: imagenet, clip, half, none; of others their values.

        Tables say it in words (metrics/seen_images.py).
        """
        for name, known in _COLOURS.items():
            if all(
                abs(own - usual) < 5e-4
                for values, usuals in zip((self.mean, self.std), known, strict=True)
                for own, usual in zip(values, usuals, strict=True)
            ):
                return name
        mean, std = (" ".join(f"{value:.3g}" for value in one) for one in (self.mean, self.std))
        return f"mean {mean}, deviation {std}"


class TextCard(NamedTuple):
    """The text tower of a published kind of weights: how it is read, and what it is asked."""

    kind: Literal["flair", "chinese", "ret_clip", "clip"]
    words: str = ""  # the repository of its vocabulary
    tokens: int = 77  # the most that a text has
    template: str = "[CLS]"  # around the name of a class
    scale: float = 0.0  # of the cosine in its own zero-shot code; 0: the trained one
    unit_classes: bool = True  # the mean over the captions of a class is of unit length again
    quick_gelu: bool = False
    language: str = ""  # "Chinese": it reads no other
    note: str = ""  # what is said once of its zero-shot answers

    def prompts(self, name: str) -> list[str]:
        """Return the captions of a class, of its name."""
        return [self.template.replace("[CLS]", name)]

    def check_language(self, texts: Sequence[str]) -> None:
        """Raise ValueError where a text is in another language than the tower's."""
        for text in texts if self.language == "Chinese" else ():
            if not re.search("[\u4e00-\u9fff]", text):
                raise ValueError(
                    f"prompt {text!r}: this text tower reads Chinese; write the prompts in Chinese"
                )


class WeightFormat(NamedTuple):
    """The card of a published kind of weights: how its files are known, and what is known of it.

    Patterns are searched in lines such as "blocks.0.norm1.weight 384": a tensor by its name in the
    file and its shape, and the encoder's once more by timm's name, behind the word "encoder".
    """

    name: str
    family: Family = "vit"
    preparation: Preparation = Preparation(0)  # image_size 0: that of its positions
    names: str = r"(?!)"  # pattern for the names of its files and repositories
    nor_named: str = r"(?!)"  # pattern for what those names do not hold
    keys: tuple[str, ...] = ()  # patterns of tensors that its files have
    lacks: tuple[str, ...] = ()  # patterns of tensors that they do not have
    telling: tuple[str, ...] = ()  # patterns that, all found, make a name unnecessary
    like: tuple[str, ...] = ()  # cards whose files may have the same tensors
    pool: Pooling = "mean"  # what its own code reads: the mean over the patches, or [CLS]
    heads: Mapping[int, int] = {}  # attention heads by width, where they are not of 64 channels
    quick_gelu: bool = False
    trained_on: tuple[str, ...] = ()  # datasets of ours, by their recipes
    saw_besides: tuple[str, ...] = ()  # in words
    text: TextCard | None = None  # None: it has none, or none that is read
    licence: str = ""  # of the weights
    sources: tuple[str, ...] = ()  # repository, commit and files that the card was read from
    unverified: tuple[str, ...] = ()  # what they do not say
    is_known: bool = True  # False: its architecture is read off, all else is guessed

    def fits(self, family: Family, lines: Sequence[str]) -> bool:
        """Return whether weights of these tensors can be of this kind."""
        return (
            self.family == family
            and all(map(partial(_found, lines), self.keys))
            and not any(map(partial(_found, lines), self.lacks))
        )


class Match(NamedTuple):
    """The card of weights, and the names of others that their tensors would fit as well."""

    format: WeightFormat
    rivals: tuple[str, ...] = ()


@cache
def formats() -> dict[str, WeightFormat]:
    """Return the cards by their file's name, as it is stated in FILE.json, in its order."""
    return {path.stem: _card(path) for path in sorted(CARDS.glob("*.toml"))}


def _card(path: Path) -> WeightFormat:
    """Return the card in a file; ValueError where it has fields that no card has."""
    facts = tomllib.loads(path.read_text(encoding="utf-8"))
    colours = _COLOURS[facts.pop("colours", "imagenet")]
    fit = facts.pop("fit", "crop")
    if fit not in _FITS:
        raise ValueError(f"{path}: fit {fit!r}; use one of {', '.join(_FITS)}")
    preparation = Preparation(
        facts.pop("image_size", 0),
        tuple(facts.pop("mean", colours[0])),
        tuple(facts.pop("std", colours[1])),
        facts.pop("resize", Preparation().resize if fit == "crop" else 1.0),
        facts.pop("interpolation", "bicubic"),
        **_FITS[fit],
    )
    heads = {int(width): count for width, count in facts.pop("heads", {}).items()}
    facts["trained_on"] = facts.pop("saw", [])
    text = facts.pop("text", None)
    content: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    try:
        if text:
            content["text"] = TextCard(**text, quick_gelu=content.get("quick_gelu", False))
        return WeightFormat(preparation=preparation, heads=heads, **content)
    except TypeError as error:
        raise ValueError(f"{path}: {error}; compare it with the other cards") from None


def format_of(name: str, family: Family, lines: Sequence[str], stated: str = "") -> Match:
    """Return the card of weights: the one stated, else by their tensors and name.

    A name chooses where the tensors fit the card that knows the longest part of it, and is not
    believed against them. Where it does not help, tensors that tell do.

    Args:
        lines: the tensors, as WeightFormat has them.
        stated: the name of a card.

    Raises ValueError where the tensors are not those of the card that is stated.
    """
    if stated:
        if not formats()[stated].fits(family, lines):
            raise ValueError(f"stated as {stated}, whose tensors it does not have; state another")
        return Match(formats()[stated])
    fitting = {card: one for card, one in formats().items() if one.fits(family, lines)}
    for text in _texts(name):
        named = _named(text)
        if named in fitting.values() and not re.search(named.nor_named, " ".join(_texts(name))):
            return Match(named)
    telling = [one for one in fitting.values() if one.telling]
    telling = [one for one in telling if all(map(partial(_found, lines), one.telling))]
    if telling:
        chosen = max(telling, key=lambda one: len(one.keys) + len(one.telling))
        return Match(chosen, tuple(card for card in chosen.like if card in fitting))
    words = "a ResNet-50" if family == "resnet50" else f"a {family} of no known form"
    return Match(WeightFormat(words, family=family, is_known=False))


def _texts(name: str) -> list[str]:
    """Return the words that weights were given by, a file's own before those of its folders."""
    folders, _, file = name.lower().rpartition("/")
    if "." not in file or not folders:
        return [name.lower()]  # a name of a hub is one thing
    return [file, "/".join(folders.split("/")[-2:])]


def _named(text: str) -> WeightFormat:
    """Return the card that knows the longest part of a name; one without a name where none does."""
    best = max(formats().values(), key=lambda one: _length(one.names, text))
    return best if _length(best.names, text) else WeightFormat("")


def _found(lines: Sequence[str], pattern: str) -> bool:
    return any(re.search(pattern, line) for line in lines)


def _length(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return len(match[0]) if match else 0


def training_datasets(method: str) -> tuple[str, ...]:
    """Return the datasets whose images the weights of a method's name were trained on, sorted.

    Names as the recipes of make_shards have them; nothing for names that no card knows.
    """
    return tuple(sorted(_named(method.lower()).trained_on))


def with_stated_normalisation(preparation: Preparation, sidecar: Mapping[str, Any]) -> Preparation:
    """Return the preparation with mean and std as a file beside the weights has them.

    sidecar is timm's config.json, open_clip's open_clip_config.json, transformers'
    preprocessor_config.json, or ours.
    """
    values = _stated_normalisation(sidecar)
    return preparation._replace(mean=values[0], std=values[1]) if values else preparation


def has_stated_normalisation(sidecar: Mapping[str, Any]) -> bool:
    """Return whether a file beside the weights has mean and std."""
    return _stated_normalisation(sidecar) is not None


def _stated_normalisation(sidecar: Mapping[str, Any]) -> tuple[Values, Values] | None:
    config = sidecar.get("pretrained_cfg") or sidecar.get("preprocess_cfg") or sidecar
    mean, std = (config.get(name) or config.get(f"image_{name}") for name in ("mean", "std"))
    if "mean" in sidecar and "std" in sidecar:  # ours has the last word
        mean, std = sidecar["mean"], sidecar["std"]
    elif config.get("do_normalize") is False:
        return None
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
        return None
    if len(mean) != 3 or len(std) != 3:
        return None
    return tuple(map(float, mean)), tuple(map(float, std))


def states_quick_gelu(sidecar: Mapping[str, Any]) -> bool | None:
    """Return whether a file beside the weights has QuickGELU as the activation; None: no word.

    sidecar is open_clip's open_clip_config.json or transformers' config.json.
    """
    vision = sidecar.get("vision_config")
    activation = (vision if isinstance(vision, dict) else sidecar).get("hidden_act")
    if isinstance(activation, str):
        return activation == "quick_gelu"
    model = sidecar.get("model_cfg")
    return bool(model.get("quick_gelu")) if isinstance(model, dict) else None


def stated_depth(sidecar: Mapping[str, Any]) -> int:
    """Return the blocks of an encoder as a file beside the weights has them; 0: it does not say.

    sidecar is ours, timm's config.json, open_clip's open_clip_config.json or transformers'
    config.json.
    """
    towers = (
        (sidecar, "depth"),
        (sidecar.get("vision_config"), "num_hidden_layers"),
        (sidecar, "num_hidden_layers"),
        (sidecar.get("model_args"), "depth"),
        ((sidecar.get("model_cfg") or {}).get("vision_cfg"), "layers"),
    )
    for tower, key in towers:
        if isinstance(tower, dict) and isinstance(tower.get(key), int):
            return int(tower[key])
    return 0
