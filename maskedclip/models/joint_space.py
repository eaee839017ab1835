"""The joint space of third-party weights: rows of images, as an encoder pools them, and of texts.

Each kind of text tower is a function that takes a file's tensors; which one a model has, its words
and its template are on its card (models/cards).
"""

import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer, CLIPTextConfig, CLIPTextModel

from maskedclip.models.checkpoints.files import Weights
from maskedclip.models.checkpoints.formats import TextCard, WeightFormat
from maskedclip.models.checkpoints.key_mapping import without_wrappers

Tensors = Mapping[str, Tensor]
Tokens = tuple[Tensor, Tensor]  # ids and mask, BL, int64
_MOST = 4.6052  # FLAIR's bound of the temperature's logarithm


class JointSpace(nn.Module):
    """Rows of unit length of images and texts, and the temperature of their cosine."""

    scale_1: Tensor

    def __init__(
        self, card: TextCard, image: nn.Module, text: nn.Module, scale: Tensor, words: "Words"
    ) -> None:
        super().__init__()
        self.card, self.image, self.text, self.words = card, image, text, words
        self.register_buffer("scale_1", scale)

    def image_rows(self, pooled_BD: Tensor) -> Tensor:
        """Return unit rows, from those that the encoder pools."""
        return F.normalize(self.image(pooled_BD.float()), dim=-1)

    @torch.no_grad()
    def text_rows(self, texts: list[str]) -> Tensor:
        """Return a unit row a text; ValueError where its words are not on this machine."""
        self.card.check_language(texts)
        token_BL, mask_BL = self.words(texts)
        device = self.scale_1.device
        return F.normalize(self.text(token_BL.to(device), mask_BL.to(device)), dim=-1)


class Words:
    """The tokenizer of a text tower, looked for when it is first needed: images need none."""

    def __init__(self, card: TextCard, name: str, file: Path, count: int) -> None:
        """`count` is of the tower's tokens, which a vocabulary must have."""
        self._card, self._name, self._file, self._count = card, name, file, count
        self._tokenize: Callable[[list[str]], Tokens] | None = None

    def __call__(self, texts: list[str]) -> Tokens:
        """Return tokens and their mask."""
        if self._tokenize is None:
            bytes_ = self._card.kind == "clip"
            self._tokenize = self._byte_pairs() if bytes_ else self._word_pieces()
        return self._tokenize(texts)

    def _word_pieces(self) -> Callable[[list[str]], Tokens]:
        vocabulary = self._find("vocab.txt")
        if vocabulary is None:
            raise self._missing("vocab.txt")
        tokenizer: Any = BertTokenizer(vocab=str(vocabulary))
        if len(tokenizer) != self._count:
            raise ValueError(
                f"{vocabulary}: {len(tokenizer)} words, and the text tower of {self._name} has "
                f"{self._count}; put the vocab.txt of {self._card.words} there"
            )

        def tokenize(texts: list[str]) -> Tokens:
            coded = tokenizer(
                texts, padding=True, truncation=True, max_length=self._card.tokens,
                return_tensors="pt",
            )  # fmt: skip
            return coded["input_ids"], coded["attention_mask"]

        return tokenize

    def _byte_pairs(self) -> Callable[[list[str]], Tokens]:
        if find_spec("open_clip") is None:
            raise ValueError(
                f"{self._name}: its text tower reads CLIP's byte pairs, which come with open_clip; "
                f"run pip install open_clip_torch"
            )
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer = SimpleTokenizer()

        def tokenize(texts: list[str]) -> Tokens:
            token_BL = tokenizer(texts, context_length=self._card.tokens)
            return token_BL, torch.ones_like(token_BL)  # what is behind the end is not looked at

        return tokenize

    def _find(self, file: str) -> Path | None:
        """Return a tokenizer's file: beside the weights, else in the hub's cache."""
        from huggingface_hub import try_to_load_from_cache

        if (self._file.parent / file).is_file():
            return self._file.parent / file
        cached = try_to_load_from_cache(self._card.words, file)
        return Path(cached) if isinstance(cached, str) else None

    def _missing(self, file: str) -> ValueError:
        return ValueError(
            f"{self._name}: its text tower reads the words of {self._card.words}, which are not on "
            f"this machine; put its {file} beside the weights, or run: hf download "
            f"{self._card.words} {file}"
        )


def joint_space(weights: Weights, format: WeightFormat) -> JointSpace | None:
    """Return the joint space of third-party weights; None where they have no text tower we read.

    Raises ValueError where a part of the tower is missing or of another shape.
    """
    tensors: Tensors = {name: t.float() for name, t in without_wrappers(weights.tensors).items()}
    card = format.text
    if card is None:
        return None
    try:
        if card.kind in _OWN_WORDS:
            tensors = _with_own_names(tensors, card.kind)
        if _EMBEDDINGS[card.kind] not in tensors:
            return None
        image, text = _KINDS[card.kind](card, tensors)
        trained = "logit_scale_left" if card.kind == "ret_clip" else "logit_scale"
        scale = card.scale or tensors[trained].clamp(0, _MOST).exp().item()
    except KeyError as error:
        raise ValueError(
            f"{weights.name}: no {error.args[0]} among its tensors, a part of the text tower of "
            f"{format.name}: it is damaged, or of another model"
        ) from None
    except RuntimeError as error:  # what torch says of tensors that do not fit
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{weights.name}: its text tower is not {format.name}'s ({reason})"
        ) from None
    count = len(tensors[_EMBEDDINGS[card.kind]])
    words = Words(card, weights.name, weights.file, count)
    return JointSpace(card, image, text, torch.tensor([scale]), words).eval()


_EMBEDDINGS = {
    "flair": "text_model.model.embeddings.word_embeddings.weight",
    "chinese": "bert.embeddings.word_embeddings.weight",
    "ret_clip": "bert.embeddings.word_embeddings.weight",
    "clip": "token_embedding.weight",
}


class _Linear(nn.Module):
    """A product with a matrix DE, without bias; with `unit` of rows of unit length."""

    weight_DE: Tensor

    def __init__(self, weight_DE: Tensor, *, unit: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight_DE", weight_DE)
        self.unit = unit

    def forward(self, x_BD: Tensor) -> Tensor:
        return (F.normalize(x_BD, dim=-1) if self.unit else x_BD) @ self.weight_DE


class _LayersMean(nn.Module):
    """FLAIR's text: the mean of three layers' states over all tokens, padding among them."""

    def __init__(self, bert: BertModel, projection: nn.Module) -> None:
        super().__init__()
        self.bert, self.projection = bert, projection

    def forward(self, token_BL: Tensor, mask_BL: Tensor) -> Tensor:
        states = self.bert(token_BL, attention_mask=mask_BL, output_hidden_states=True)[1]
        return self.projection(torch.stack([states[n].mean(dim=1) for n in (1, 2, -1)]).mean(dim=0))


class _FirstToken(nn.Module):
    """Chinese-CLIP's text: a map of the last state of [CLS]."""

    def __init__(self, bert: BertModel, projection: nn.Module) -> None:
        super().__init__()
        self.bert, self.projection = bert, projection

    def forward(self, token_BL: Tensor, mask_BL: Tensor) -> Tensor:
        return self.projection(self.bert(token_BL, attention_mask=mask_BL)[0][:, 0])


class _EndToken(nn.Module):
    """CLIP's text: a map of the last state of the end token, which sees all before it."""

    def __init__(self, transformer: CLIPTextModel, projection: nn.Module) -> None:
        super().__init__()
        self.transformer, self.projection = transformer, projection

    def forward(self, token_BL: Tensor, mask_BL: Tensor) -> Tensor:  # noqa: ARG002 (as all)
        return self.projection(self.transformer(token_BL).pooler_output)


def _flair(card: TextCard, tensors: Tensors) -> tuple[nn.Module, nn.Module]:  # noqa: ARG001
    image_ED, text_ED = (
        tensors[f"{tower}.projection_head_{part}.projection.weight"]
        for tower, part in (("vision_model", "vision"), ("text_model", "text"))
    )
    bert = _bert(tensors, "text_model.model.")
    return _Linear(image_ED.T, unit=True), _LayersMean(bert, _Linear(text_ED.T, unit=True))


def _chinese(card: TextCard, tensors: Tensors) -> tuple[nn.Module, nn.Module]:  # noqa: ARG001
    text = _FirstToken(_bert(tensors, "bert."), _Linear(tensors["text_projection"]))
    return _Linear(tensors["visual.proj"]), text


def _ret_clip(card: TextCard, tensors: Tensors) -> tuple[nn.Module, nn.Module]:  # noqa: ARG001
    """RET-CLIP maps patients, left and right eyes each by its own; a photograph alone is a left."""
    first, last = (_layer(tensors, f"text_projection_left.{number}.") for number in (0, 2))
    text = _FirstToken(_bert(tensors, "bert."), nn.Sequential(first, nn.ReLU(), last))
    left_EE = tensors["left_feature_mapping.weight"]
    return _Linear(tensors["visual.proj"] @ left_EE.T), text


def _clip(card: TextCard, tensors: Tensors) -> tuple[nn.Module, nn.Module]:
    own = _clip_names(tensors)
    table_VD = own["embeddings.token_embedding.weight"]
    layers = {name.split(".")[2] for name in own if name.startswith("encoder.layers.")}
    config = CLIPTextConfig(
        vocab_size=table_VD.shape[0],
        hidden_size=table_VD.shape[1],
        intermediate_size=own["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, table_VD.shape[1] // 64),
        max_position_embeddings=own["embeddings.position_embedding.weight"].shape[0],
        hidden_act="quick_gelu" if card.quick_gelu else "gelu",
        bos_token_id=None,
        eos_token_id=2,  # transformers' word for: the highest token ends a text
    )
    transformer = CLIPTextModel(config)
    transformer.load_state_dict(own)
    text = _EndToken(transformer, _Linear(tensors["text_projection"]))
    return _Linear(tensors["visual.proj"]), text


_OWN_WORDS = {  # where transformers has the words of a CLIP
    "clip": "text_model.embeddings.token_embedding.weight",
    "chinese": "text_model.embeddings.word_embeddings.weight",
}


def _with_own_names(tensors: Tensors, kind: str) -> Tensors:
    """Return a CLIP of transformers with its words and projections as its own code has them."""
    words_VD = tensors.get(_OWN_WORDS[kind])
    if words_VD is None:
        return tensors
    renamed = dict(tensors) | {_EMBEDDINGS[kind]: words_VD}
    if kind == "chinese":
        renamed |= {re.sub(r"^text_model\.", "bert.", name): t for name, t in tensors.items()}
    for theirs, ours in (
        ("text_projection", "text_projection"),
        ("visual_projection", "visual.proj"),
    ):
        renamed[ours] = tensors[f"{theirs}.weight"].T
    return renamed


_KINDS: dict[str, Callable[[TextCard, Tensors], tuple[nn.Module, nn.Module]]] = {
    "flair": _flair, "chinese": _chinese, "ret_clip": _ret_clip, "clip": _clip
}  # fmt: skip
_CLIP_NAMES = (
    (r"^text_model\.", ""),  # transformers' own
    (r"\.position_ids$", ""),  # of older files, and in none of their networks
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def _clip_names(tensors: Tensors) -> dict[str, Tensor]:
    """Return a CLIP's text transformer under transformers' names."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = name
        for pattern, replacement in _CLIP_NAMES:
            found = re.sub(pattern, replacement, found)
        if not found.startswith(("embeddings.", "encoder.layers.", "final_layer_norm.")):
            continue
        stem, fused, kind = found.partition(".attn.in_proj_")
        if not fused:
            renamed[found] = tensor
            continue
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            renamed[f"{stem}.self_attn.{part}_proj.{kind}"] = rows
    return renamed


def _bert(tensors: Tensors, prefix: str) -> BertModel:
    """Return the BERT whose tensors begin so, of heads of 64 channels; its pooler is left out."""
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    own = {n: t for n, t in own.items() if not n.startswith("pooler.")}
    own.pop("embeddings.position_ids", None)
    words_VD = own["embeddings.word_embeddings.weight"]
    config = BertConfig(
        vocab_size=words_VD.shape[0],
        hidden_size=words_VD.shape[1],
        num_hidden_layers=len({n.split(".")[2] for n in own if n.startswith("encoder.layer.")}),
        num_attention_heads=max(1, words_VD.shape[1] // 64),
        intermediate_size=own["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=own["embeddings.position_embeddings.weight"].shape[0],
        type_vocab_size=own["embeddings.token_type_embeddings.weight"].shape[0],
    )
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(own)
    return bert


def _layer(tensors: Tensors, prefix: str) -> nn.Linear:
    weight_ED = tensors[f"{prefix}weight"]
    layer = nn.Linear(weight_ED.shape[1], weight_ED.shape[0])
    layer.load_state_dict({"weight": weight_ED, "bias": tensors[f"{prefix}bias"]})
    return layer
