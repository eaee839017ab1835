"""E_T: a BERT, its tokens' mean, and a linear map into the joint space.

Any Hugging Face BERT serves, by name or folder; `builtin` is a small one with a WordPiece
vocabulary over the expert dictionary, for the demo and for machines without network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from maskedclip.models import BUILTIN

VOCABULARY = Path(__file__).with_name("vocabulary.txt")
# read from the disk alone, without a folder's own code: transformers would ask at a terminal
_ON_DISK: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class TextTower(nn.Module):
    def __init__(self, *, bert: BertModel, projection: int) -> None:
        super().__init__()
        self.bert = bert
        self.projection = nn.Linear(bert.config.hidden_size, projection, bias=False)

    def forward(self, token_BL: Tensor, token_mask_BL: Tensor) -> Tensor:
        """Return unit rows: the mean of the last hidden state over tokens; padding never counts."""
        # of a mask of two axes transformers asks, waiting for the device, whether it hides anything
        mask_B1LL = token_mask_BL[:, None, None, :].bool().expand(-1, 1, token_BL.shape[1], -1)
        hidden_BLD = self.bert(input_ids=token_BL, attention_mask=mask_B1LL).last_hidden_state
        weight_BL1 = token_mask_BL[:, :, None].to(hidden_BLD.dtype)
        mean_BD = (hidden_BLD * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)
        return F.normalize(self.projection(mean_BD).float(), dim=-1)


class Tokenizer:
    """Captions to token ids; picklable and safe to share between threads of one process.

    Of 0 tokens it gives rows without any, for methods that read no text.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Return (token_BL, token_mask_BL), int64, padded to the longest caption."""
        if not self._max_tokens:
            empty_BL = torch.zeros(len(captions), 0, dtype=torch.int64)
            return empty_BL, empty_BL
        coded = self._tokenizer(
            captions,
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        return coded["input_ids"], coded["attention_mask"]

    def save(self, folder: Path) -> None:
        """Write the files that transformers reads a tokenizer from."""
        self._tokenizer.save_pretrained(folder)


def build_text(
    name: str, *, projection: int, dropout: float, max_tokens: int, pretrained: bool = True
) -> tuple[TextTower, Tokenizer]:
    """Return the text tower and tokenizer of `name`: builtin, a local folder, or a hub name.

    pretrained False builds the same shape with random weights, for a checkpoint to fill. Raises
    ValueError with the command to run where a hub name is not on this machine.
    """
    if name == BUILTIN:
        tokenizer: Any = _builtin_tokenizer()
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=128,
        )
        bert = _bert(config, dropout)
    else:
        tokenizer, bert = _from_hub(name, dropout, pretrained)
    tower = TextTower(bert=bert, projection=projection)
    return tower, Tokenizer(tokenizer, max_tokens)


def _builtin_tokenizer() -> PreTrainedTokenizerFast:
    words = VOCABULARY.read_text().split("\n")[:-1]
    number = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizers(WordPiece(number, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(name, number[name]) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = BertProcessing(*ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def _bert(config: Any, dropout: float) -> BertModel:
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return BertModel(config, add_pooling_layer=False)


def check_text(name: str) -> None:
    """Raise ValueError, with the command to run, where the text tower is not on this machine."""
    if name != BUILTIN:
        with _missing(name):
            AutoConfig.from_pretrained(name, **_ON_DISK)
            AutoTokenizer.from_pretrained(name, **_ON_DISK)


def _from_hub(name: str, dropout: float, pretrained: bool) -> tuple[Any, BertModel]:
    logging.set_verbosity_error()
    # a compute node often has no network: read the disk alone, and say how to fill it
    with _missing(name):
        config = AutoConfig.from_pretrained(name, **_ON_DISK)
        tokenizer = AutoTokenizer.from_pretrained(name, **_ON_DISK)
        if not pretrained:
            return tokenizer, _bert(config, dropout)
        bert = BertModel.from_pretrained(
            name,
            add_pooling_layer=False,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            dtype=torch.float32,
            **_ON_DISK,
        )
    return tokenizer, bert


@contextmanager
def _missing(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise ValueError(f"model.text {name}: no BERT in this folder ({error})") from error
        raise ValueError(
            f"model.text {name} is not on this machine; on one with network run "
            f"`python tools/prefetch.py --model.text={name}` (or `hf download {name}`), or use "
            f"--model.text=builtin"
        ) from error
