"""Third-party encoders: how to recognise each, its preprocessing, its pre-training data.

All that sets one apart is a row of FORMATS; its tensor names are mapped in `key_mapping.py`, and
its network is built in `architectures.py`.
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
_COLOURS = {"imagenet": _IMAGENET, "clip": _OPENAI, "half": _HALF, "none": _BARE}


class Preparation(NamedTuple):
    """How an image is preprocessed for a network; by default as for ours and MAE's."""

    image_size: int = 224  # pixels, square
    mean: Values = _IMAGENET[0]  # of values from 0 to 1
    std: Values = _IMAGENET[1]
    resize: float = 256 / 224  # of the size: the shorter side before the middle is cut out
    interpolation: str = "bicubic"
    whole: bool = False  # nothing is cut off: the longer side fills the square, the rest is black

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


class WeightFormat(NamedTuple):
    """A published kind of weights, and what is known of it beforehand."""

    name: str
    name_pattern: str  # regular expression for the names of its files and repositories
    tensor_pattern: str = r"(?!)"  # for a tensor that only its files have, as "name rows"
    family: Family = "vit"
    preparation: Preparation = Preparation(0)  # image_size 0: that of its positions
    heads: Mapping[int, int] = {}  # attention heads by width, where they are not of 64 channels
    quick_gelu: bool = False
    trained_on: tuple[str, ...] = ()  # datasets of ours, by their recipes
    is_known: bool = True  # False: its architecture is read off, all else is guessed


_CLIP = Preparation(0, *_OPENAI, resize=1.0)

# The first row that fits is taken: by its name, else by a tensor.
FORMATS = (
    WeightFormat(
        "FLAIR",
        r"(?<![a-z])flair(?![a-z])",
        r"^vision_model\.model\.conv1\.",
        family="resnet50",
        preparation=Preparation(512, *_BARE, 1.0, "bilinear", whole=True),
        # the default list of its main_pretrain.py
        trained_on=(
            "eyepacs", "idrid", "jsiec", "lag", "odir5k", "paraguay", "stare", "aptos2019",
            "drishti_gs", "hrf", "origa", "airogs", "sustech_sysu", "chaksu", "retina",
        ),
    ),
    WeightFormat(
        "UrFound",
        r"urfound",
        r"^bert_(encoder|mlp)\.",
        # datasets_fundus of its util/dataset.py
        trained_on=(
            "eyepacs", "lag", "odir5k", "paraguay", "stare", "drishti_gs", "hrf", "origa",
            "sustech_sysu", "chaksu", "acrima", "deepdrid",
        ),
    ),
    WeightFormat("RETFound (DINOv2)", r"retfound_?-?dinov2", preparation=Preparation(224)),
    WeightFormat("RETFound", r"retfound", trained_on=("eyepacs",)),
    WeightFormat(
        "DINOv3",
        r"dinov3",
        r"^(\w+\.)*(storage_tokens|rope_embed)\b|\blayer\.0\.attention\.q_proj\.",
        family="eva",
        preparation=Preparation(256, resize=1.0),
    ),
    WeightFormat(
        "DINOv2",
        r"dinov2",
        r"\b(ls1\.gamma|layer_scale1\.lambda1) ",
        preparation=Preparation(224),
    ),
    WeightFormat("iBOT", r"(?<![a-z])ibot(?![a-z])", r"\bmasked_embed "),
    WeightFormat("DINO", r"(?<![a-z])dino(?![a-z])", r"\bhead\.last_layer\.weight_g "),
    WeightFormat("MoCo v3", r"moco", r"\bbase_encoder\.", heads={384: 12}),
    WeightFormat(
        "SLIP",
        r"(?<![a-z])slip(?![a-z])|(?<![a-z])(clip|simclr)_(small|base|large)_\d+ep",
        r"\b(image_projection |image_mlp\.layer1)",
        heads={384: 12},
    ),
    WeightFormat(
        "OpenAI CLIP",
        r"openai|quickgelu|metaclip|^vit-[bl]-\d+(-336px)?\.pt",
        r"^input_resolution ",
        preparation=_CLIP,
        quick_gelu=True,
    ),
    WeightFormat("CLIP", r"clip", r"\bclass_embedding ", preparation=_CLIP),
    WeightFormat(
        "ImageNet-21K",
        r"augreg|orig_in21k|imagenet-?21k",
        r"^head\.weight 21843$",
        preparation=Preparation(0, *_HALF, 1 / 0.9),
    ),
    WeightFormat("MAE", r"(?<![a-z])mae(?![a-z])", r"^decoder(_|\.)"),
    WeightFormat(
        "a ResNet-50", r"(?!)", r"\blayer4\.2\.conv3\.weight ", family="resnet50", is_known=False
    ),
    WeightFormat("a ViT of no known form", r"(?!)", r"", is_known=False),
)  # fmt: skip


def format_of(name: str, family: Family, fingerprint: Iterable[str]) -> WeightFormat:
    """Return the format of weights: by the name that they were given by, else by their tensors.

    fingerprint holds "name rows" of each tensor as its file has it.
    """
    candidates = [format for format in FORMATS if format.family == family]
    folders, _, file = name.lower().rpartition("/")
    names = [file, "/".join(folders.split("/")[-2:])]
    # a file's own words come before those of its folders; a name of a hub is one thing
    for text in names if "." in file and folders else [name.lower()]:
        for format in candidates:
            if re.search(format.name_pattern, text):
                return format
    lines = list(fingerprint)
    for format in candidates:
        if any(re.search(format.tensor_pattern, line) for line in lines):
            return format
    return WeightFormat(f"a {family} of no known form", r"(?!)", family=family, is_known=False)


def training_datasets(method: str) -> tuple[str, ...]:
    """Return the datasets whose images the weights of a method's name were trained on, sorted.

    Names as the recipes of make_shards have them; nothing for names that no format knows.
    """
    for format in FORMATS:
        if re.search(format.name_pattern, method.lower()):
            return tuple(sorted(format.trained_on))
    return ()


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
