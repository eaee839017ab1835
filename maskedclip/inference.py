"""Trained networks applied to new images and texts: what `maskedclip.load` returns.

model = maskedclip.load("runs/demo")
model.classify(["eye.jpg"], ["normal", "glaucoma"])
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maskedclip.data.captions import TEMPLATE, Wording, wording_of
from maskedclip.data.captions import prompts as prompts_of
from maskedclip.data.chinese_words import in_chinese
from maskedclip.data.labelled_views import preparation
from maskedclip.data.photographs.decoding import UnreadableImage, decode, decode_opened
from maskedclip.data.photographs.field_of_view import crop_field
from maskedclip.data.storage.open_dataset import describe
from maskedclip.data.transforms import normalise
from maskedclip.engine.distributed import autocast
from maskedclip.engine.visible_gpus import inference_device
from maskedclip.metrics.zero_shot import class_embeddings, probabilities
from maskedclip.models.checkpoints.architectures import (
    Network,
    check_image_size,
    pooled,
    resampled_positions,
)
from maskedclip.models.checkpoints.files import OWN, locate, read_checkpoint, read_header
from maskedclip.models.checkpoints.formats import Preparation, formats
from maskedclip.models.checkpoints.load_report import load_all
from maskedclip.models.classifier import TaskHead, read_classifier
from maskedclip.models.joint_space import JointSpace, joint_space
from maskedclip.models.maskedclip import MaskedCLIP, build_saved
from maskedclip.models.pretrained import (
    MODEL,
    EncoderInfo,
    encoder_info,
    load_encoder,
    read_weights,
    say_once,
)
from maskedclip.models.text import Tokenizer

logger = logging.getLogger(__name__)
_BATCH = 64
_ALIKE = 1e-6  # difference of rows, below which a text tower tells nothing apart
_FULL = 1_000_000  # pixels: above any side

One = Image.Image | np.ndarray | str | Path
Images = Tensor | One | Sequence[One]


class Model:
    """An image encoder, with its text tower or its fine-tuned head where the file has one.

    Images are a uint8 tensor BCHW, or a list of PIL images, uint8 arrays HWC (RGB) and paths; one
    of these alone is a list of one. PIL images and paths are turned upright by their EXIF and
    brought to 8 bits, the same way. They are resized, cropped and normalised as the weights expect
    it (ours: shorter side to 256/224 of the size, centre crop, ImageNet's mean and deviation); a
    tensor of the model's size is not resized. With field_of_view, listed images are first cropped
    to the fundus, as tools/make_shards.py does.
    """

    def __init__(
        self,
        network: MaskedCLIP | Network,
        tokenize: Tokenizer | None,
        preparation: Preparation,
        classes: Sequence[str],
        source: str,
        head: TaskHead | None = None,
        joint: JointSpace | None = None,
        template: str = "",
    ) -> None:
        self.device = inference_device()
        self.network = network.to(self.device).eval()
        self.preparation, self.image_size = preparation, preparation.image_size
        self.classes = tuple(classes)  # of the fine-tuned head, else empty
        self.wording = Wording(template or TEMPLATE)  # of the captions that it learnt from
        self.head = head or TaskHead()  # whether they exclude one another, or are a number
        self._tokenize, self.source = tokenize, source  # source: path or name, for messages
        self.joint = joint.to(self.device) if joint else None  # of third-party weights with texts

    def prepare(self, image: Image.Image) -> Tensor:
        """Return image_CHW, resized and normalised as the weights expect it."""
        return preparation(**self.preparation._asdict())(image)

    @property
    def reads_text(self) -> bool:
        return self._tokenize is not None or self.joint is not None

    def encode_image(self, images: Images, *, field_of_view: bool = False) -> Tensor:
        """Return a unit row an image, float32: in the joint space where there is a text tower."""
        return self._batched(self.features, images, field_of_view)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return a unit row a text; ValueError where the weights have no text tower."""
        if not self.reads_text:
            raise ValueError(
                f"{self.source}: no text tower, or none that is read; load a run with {MODEL}, or "
                f"weights whose card has one (docs/weights.md)"
            )
        batches = [list(texts[first : first + _BATCH]) for first in range(0, len(texts), _BATCH)]
        return torch.cat([self._text_rows(batch).cpu() for batch in batches])

    @torch.no_grad()
    def _text_rows(self, texts: list[str]) -> Tensor:
        if self.joint is not None:
            return self.joint.text_rows(texts)
        assert isinstance(self.network, MaskedCLIP)
        assert self._tokenize is not None
        token_BL, mask_BL = self._tokenize(texts)
        return self.network.text(token_BL.to(self.device), mask_BL.to(self.device))

    def classify(
        self,
        images: Images,
        prompts: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        *,
        field_of_view: bool = False,
    ) -> Tensor:
        """Return probabilities, a row an image and a column a prompt, in float64.

        Args:
            prompts: findings, each put into the caption template with its descriptions from the
                expert dictionary (third-party weights: into their own template, without); or names
                with captions written out, whose mean is taken. None asks a fine-tuned head: a
                column for each of `classes`.
        """
        if prompts is None:
            if not self.classes:
                raise ValueError(f"{self.source}: no fine-tuned head; give prompts")
            return self._batched(self.predict, images, field_of_view)
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts: found {prompts!r}; give a list or a dict of them")
        captions = list(prompts.values()) if isinstance(prompts, Mapping) else None
        class_YD = self.class_embeddings(captions or [self.prompts(name) for name in prompts])
        return self.zero_shot(self.encode_image(images, field_of_view=field_of_view), class_YD)

    def class_embeddings(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Return a row a class, from the captions of each; of unit length but of FLAIR and alike.

        Raises ValueError where a third-party text tower does not tell the classes apart.
        """
        if self.joint is None:
            return class_embeddings(self.encode_text, prompts)
        card = self.joint.card
        if card.note:
            say_once(f"{self.source}: {card.note}")
        class_YD = class_embeddings(self.encode_text, prompts, unit=card.unit_classes)
        if len(class_YD) > 1 and (class_YD - class_YD[0]).abs().max() < _ALIKE:
            raise ValueError(
                f"{self.source}: its text tower gives the same row for all {len(class_YD)} "
                f"classes (that of EyeCLIP's eyeclip_visual.pt is said to); use its images alone"
            )
        return class_YD

    def prompts(self, name: str) -> list[str]:
        """Return the captions of a class of this name, as the text tower was trained on.

        A tower that reads Chinese is asked for the categories of the expert dictionary in Chinese.
        """
        if self.joint is None:
            return prompts_of(name, self.wording)
        card = self.joint.card
        return card.prompts(in_chinese(name) if card.language == "Chinese" else name)

    def zero_shot(self, image_BD: Tensor, class_YD: Tensor) -> Tensor:
        """Return probability_BY of images over classes, at the trained temperature."""
        if self.joint is not None:
            return probabilities(image_BD, class_YD, self.joint.scale_1.item())
        assert isinstance(self.network, MaskedCLIP)
        return probabilities(image_BD, class_YD, self.network.temperature().item())

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return unit rows for normalised images of the model's size."""
        with self._inference_mode():
            image_BCHW = image_BCHW.to(self.device)
            if isinstance(self.network, MaskedCLIP):
                return self.network.encode_image(image_BCHW).float().cpu()
            pooled_BD = pooled(self.network, image_BCHW)
            if self.joint is not None:
                return self.joint.image_rows(pooled_BD).cpu()
            return F.normalize(pooled_BD, dim=-1).cpu()

    def predict(self, image_BCHW: Tensor) -> Tensor:
        """Return the fine-tuned head's answers for normalised images, in float64.

        They are probability_BY, of labels each by itself; of a number one column, in its unit.
        """
        with self._inference_mode():
            return self.head.answers(self.network(image_BCHW.to(self.device))).cpu()

    def _batched(
        self, network: Callable[[Tensor], Tensor], images: Images, field_of_view: bool
    ) -> Tensor:
        images = _listed(images)
        batches = (images[first : first + _BATCH] for first in range(0, len(images), _BATCH))
        return torch.cat([network(self._prepare(batch, field_of_view)) for batch in batches])

    def _prepare(self, images: Tensor | Sequence[One], field_of_view: bool) -> Tensor:
        if isinstance(images, Tensor):
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
                raise ValueError(
                    f"images: {images.dtype} of shape {tuple(images.shape)}; give uint8 BCHW in RGB"
                )
            if tuple(images.shape[2:]) == (self.image_size, self.image_size):
                return normalise(images, mean=self.preparation.mean, std=self.preparation.std)
            images = [image_CHW.permute(1, 2, 0).cpu().numpy() for image_CHW in images]
        return torch.stack([self.prepare(read_image(image, field_of_view)) for image in images])

    @contextmanager
    def _inference_mode(self) -> Iterator[None]:
        precision = "auto" if self.device.type == "cuda" else "fp32"
        with torch.no_grad(), autocast(self.device, precision):
            yield


def _listed(images: Images) -> Tensor | Sequence[One]:
    """Return images as a tensor or a list; ValueError where they are neither, or none."""
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        return [images] if images.ndim == 3 else list(images)
    if not isinstance(images, Sequence | Tensor):
        raise ValueError(
            f"images: {type(images).__name__}; give a path, an image, a list of them, or a uint8 "
            f"tensor BCHW"
        )
    if not len(images):
        raise ValueError("images: the list is empty; give at least one")
    return images


def read_image(image: Image.Image | np.ndarray | str | Path, field_of_view: bool) -> Image.Image:
    """Return an image in RGB, cropped to the fundus on demand; ValueError where it is none.

    A file and its PIL image give the same (data/photographs/decoding.py).
    """
    image_HWC = image if isinstance(image, np.ndarray) else _decoded(image)
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(
            f"images: {image_HWC.dtype} of shape {image_HWC.shape}; give uint8 HWC in RGB"
        )
    if field_of_view:
        image_HWC = crop_field(image_HWC)
    return Image.fromarray(np.ascontiguousarray(image_HWC))


def _decoded(image: Image.Image | str | Path) -> np.ndarray:
    """Return image_HWC of a PIL image or a file; ValueError where it is none."""
    if not isinstance(image, Image.Image | str | Path):
        raise ValueError(f"images: {type(image).__name__}; give a path, a PIL image or an array")
    name = str(image if isinstance(image, str | Path) else getattr(image, "filename", ""))
    try:
        if isinstance(image, Image.Image):
            decoded = decode_opened(image)
        else:  # at full resolution: the field of view may be a small part of the image
            decoded = decode(Path(image).read_bytes(), _FULL)
    except FileNotFoundError:
        raise ValueError(f"{image}: no such image") from None
    except IsADirectoryError:
        raise ValueError(
            f"{image}: is a folder; give its images, such as "
            f"sorted(Path({str(image)!r}).rglob('*.jpg')), or run maskedclip.predict on it"
        ) from None
    except OSError as error:
        raise ValueError(f"{image}: cannot be read: {error.strerror}") from None
    except UnreadableImage as error:
        raise ValueError(f"{name or 'images'}: {error}; give a JPEG, PNG or TIFF") from error
    for kind, remark in decoded.remarks:
        logger.warning("%s: %s (%s)", name or "a PIL image", remark, kind.replace("_", " "))
    return decoded.image_HWC


def load(path: str | Path, *, image_size: int = 0) -> Model:
    """Return the networks of a run or of weights, on the GPU where there is one.

    Of a run, model.safetensors is taken if it exists, else a fine-tuned or bare encoder.
    Third-party weights are a file, or a name of Hugging Face or timm in the local cache. image_size
    0 is the weights' own; positions are interpolated to another. Raises ValueError where it is none
    of these, or the patch does not divide image_size.
    """
    weights, path = path, locate(path, OWN)
    header, names = read_header(path)
    if "temperature.logit_scale" in names:
        tensors, header = read_weights(path)
        header |= {"image_size": image_size or header["image_size"]}
        check_image_size(header["image_size"], header)
        network, tokenize = build_saved(header, path)
        load_all(network, resampled_positions(tensors, network.state_dict(), prefix=1), path)
        return Model(
            network, tokenize, Preparation(header["image_size"]), (), str(path),
            template=caption_template(path.parent),
        )  # fmt: skip
    if "classes" in header:
        classifier, facts = read_classifier(path, image_size=image_size)
        expected = encoder_info(classifier).preparation
        return Model(classifier, None, expected, header["classes"], str(path), TaskHead.of(facts))
    encoder, report = load_encoder(
        path if header else weights, image_size=image_size, global_pool="token"
    )
    logger.info("%s", report)
    joint = None if header else joint_space_of(weights, encoder_info(encoder))
    shown = encoder_info(encoder).preparation
    return Model(encoder, None, shown, (), str(weights), joint=joint)


def stated_template(run: Path) -> str:
    """Return the caption template that a run was given, "" where it has none or is not known."""
    return str(_data_of(run).get("caption_template", ""))


def caption_template(run: Path) -> str:
    """Return the template of the captions that a run has learnt from, "" where it is not known.

    Where it was given none, it is that of the cards of its pairs, if their shards are here and
    have the same one.
    """
    try:
        cards = [describe(Path(directory)) for directory in _data_of(run).get("paired", ())]
    except (OSError, ValueError):
        cards = []  # elsewhere by now
    own = {wording_of(manifest).template for manifest in cards}
    return stated_template(run) or (own.pop() if len(own) == 1 else "")


def _data_of(run: Path) -> dict[str, Any]:
    """Return the fields `data` of a run's configuration, none where its weights lie alone."""
    try:
        content = json.loads((run / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    data = content.get("data") if isinstance(content, dict) else None
    return data if isinstance(data, dict) else {}


def joint_space_of(weights: str | Path, info: EncoderInfo) -> JointSpace | None:
    """Return the joint space of third-party weights; None where none is read."""
    card = next((card for card in formats().values() if card.name == info.format), None)
    if card is None or card.text is None:
        return None
    if info.architecture.get("pool", "mean") != card.pool:
        say_once(f"{weights}: the pooling stated of it is not its text tower's, which is not read")
        return None
    quick_gelu = info.architecture.get("activation") == "quick_gelu"  # as a file beside may say
    text = card.text._replace(quick_gelu=quick_gelu)
    return joint_space(read_checkpoint(weights), card._replace(text=text))
