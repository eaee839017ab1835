"""Encoders of others: how each is told, what is done to images for it, and what it has seen.

All that sets one form apart is a row of CARDS; how its file is laid out stands in
`foreign_layouts.py`, and what network that gives in `foreign_networks.py`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Family = Literal["vit", "eva", "resnet50"]
Values = tuple[float, ...]
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, of 0 to 1
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BARE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Preparation(NamedTuple):
    """What is done to an image before a network sees it; ours and MAE's where nothing is said."""

    image_size: int = 224  # pixels, square
    mean: Values = _IMAGENET[0]  # of values from 0 to 1
    std: Values = _IMAGENET[1]
    resize: float = 256 / 224  # of the size: the shorter side before the middle is cut out
    interpolation: str = "bicubic"
    whole: bool = False  # nothing is cut off: the longer side fills the square, the rest is black


class Card(NamedTuple):
    """A form of weights: what is known of it beforehand."""

    name: str
    words: str  # in the names of its files and repositories, a regular expression
    told_by: str = r"(?!)"  # a tensor that only its files have, as "name rows"; or none
    family: Family = "vit"
    preparation: Preparation = Preparation(0)  # image_size 0: that of its positions
    heads: Mapping[int, int] = {}  # attention heads by width, where they are not of 64 channels
    quick_gelu: bool = False
    saw: tuple[str, ...] = ()  # datasets of ours, by their recipes, whose images it was trained on


_CLIP = Preparation(0, *_OPENAI, resize=1.0)

# The first row that fits is it: by the words of its name, else by a tensor.
CARDS = (
    Card(
        "FLAIR",
        r"(?<![a-z])flair(?![a-z])",
        r"^vision_model\.model\.conv1\.",
        family="resnet50",
        preparation=Preparation(512, *_BARE, 1.0, "bilinear", whole=True),
        # the default list of its main_pretrain.py
        saw=(
            "eyepacs", "idrid", "jsiec", "lag", "odir5k", "paraguay", "stare", "aptos2019",
            "drishti_gs", "hrf", "origa", "airogs", "sustech_sysu", "chaksu", "retina",
        ),
    ),
    Card(
        "UrFound",
        r"urfound",
        r"^bert_(encoder|mlp)\.",
        # datasets_fundus of its util/dataset.py
        saw=(
            "eyepacs", "lag", "odir5k", "paraguay", "stare", "drishti_gs", "hrf", "origa",
            "sustech_sysu", "chaksu", "acrima", "deepdrid",
        ),
    ),
    Card("RETFound (DINOv2)", r"retfound_?-?dinov2", preparation=Preparation(224)),
    Card("RETFound", r"retfound", saw=("eyepacs",)),
    Card(
        "DINOv3",
        r"dinov3",
        r"^(\w+\.)*(storage_tokens|rope_embed)\b|\blayer\.0\.attention\.q_proj\.",
        family="eva",
        preparation=Preparation(256, resize=1.0),
    ),
    Card(
        "DINOv2",
        r"dinov2",
        r"\b(ls1\.gamma|layer_scale1\.lambda1) ",
        preparation=Preparation(224),
    ),
    Card("iBOT", r"(?<![a-z])ibot(?![a-z])", r"\bmasked_embed "),
    Card("DINO", r"(?<![a-z])dino(?![a-z])", r"\bhead\.last_layer\.weight_g "),
    Card("MoCo v3", r"moco", r"\bbase_encoder\.", heads={384: 12}),
    Card(
        "SLIP",
        r"(?<![a-z])slip(?![a-z])|(?<![a-z])(clip|simclr)_(small|base|large)_\d+ep",
        r"\b(image_projection |image_mlp\.layer1)",
        heads={384: 12},
    ),
    Card(
        "OpenAI CLIP",
        r"openai|quickgelu|metaclip|^vit-[bl]-\d+(-336px)?\.pt",
        r"^input_resolution ",
        preparation=_CLIP,
        quick_gelu=True,
    ),
    Card("CLIP", r"clip", r"\bclass_embedding ", preparation=_CLIP),
    Card(
        "ImageNet-21K",
        r"augreg|orig_in21k|imagenet-?21k",
        r"^head\.weight 21843$",
        preparation=Preparation(0, *_HALF, 1 / 0.9),
    ),
    Card("MAE", r"(?<![a-z])mae(?![a-z])", r"^decoder(_|\.)"),
    Card("a ResNet-50", r"(?!)", r"\blayer4\.2\.conv3\.weight ", family="resnet50"),
    Card("a ViT of no known form", r"(?!)", r""),
)  # fmt: skip


def card_of(name: str, family: Family, fingerprint: Iterable[str]) -> Card:
    """Return the card of weights: by the name that they were given by, else by their tensors.

    fingerprint holds "name rows" of each tensor as its file has it.
    """
    cards = [card for card in CARDS if card.family == family]
    folders, _, file = name.lower().rpartition("/")
    parts = [file, "/".join(folders.split("/")[-2:])]
    # a file's own words come before those of its folders; a name of a hub is one thing
    for part in parts if "." in file and folders else [name.lower()]:
        for card in cards:
            if re.search(card.words, part):
                return card
    there = list(fingerprint)
    for card in cards:
        if any(re.search(card.told_by, line) for line in there):
            return card
    return Card(f"a {family} of no known form", r"(?!)", family=family)


def contaminated(method: str) -> tuple[str, ...]:
    """Return the datasets whose images the weights of a method's name were trained on, sorted.

    Names as the recipes of make_shards have them; nothing for names that no card knows.
    """
    for card in CARDS:
        if re.search(card.words, method.lower()):
            return tuple(sorted(card.saw))
    return ()


def told_apart(preparation: Preparation, beside: Mapping[str, Any]) -> Preparation:
    """Return the preparation with mean and std as a file beside the weights has them.

    beside is timm's config.json, open_clip's open_clip_config.json or transformers'
    preprocessor_config.json.
    """
    found = beside.get("pretrained_cfg") or beside.get("preprocess_cfg") or beside
    mean, std = (found.get(name) or found.get(f"image_{name}") for name in ("mean", "std"))
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
        return preparation
    if len(mean) != 3 or len(std) != 3 or found.get("do_normalize") is False:
        return preparation
    return preparation._replace(mean=tuple(map(float, mean)), std=tuple(map(float, std)))
