"""The source of an export: a run's tensors, its features, and how it preprocesses images."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from maskedclip.data.labelled_views import preparation
from maskedclip.models.checkpoints.architectures import to_eva_names
from maskedclip.models.checkpoints.files import read_facts
from maskedclip.models.checkpoints.load_report import load_all
from maskedclip.models.classifier import FINETUNED
from maskedclip.models.encoder import Encoder
from maskedclip.models.maskedclip import SIZES, Size
from maskedclip.models.pretrained import ENCODER, MODEL, read_weights
from maskedclip.shards.phantoms.phantom import draw
from maskedclip.weights.image_tower import TowerShape

# of a ViT as MAE and timm have it; other libraries' plain ViTs have nothing else
_PLAIN = re.compile(
    r"cls_token|reg_token|pos_embed|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
    r"|blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
)
_EXAMPLES = 3  # phantoms that are compared


class FeatureCheck(NamedTuple):
    """The largest absolute difference between what another library gives and the run."""

    what: str
    difference: float
    limit: float | None = 1e-4  # above which the export is refused; None: other pixels went in


class SourceRun(NamedTuple):
    """A run's weights; `rest` are those beside the encoder, none of an encoder.safetensors."""

    file: Path
    header: dict[str, Any]
    encoder: dict[str, Tensor]  # timm's names
    rest: dict[str, Tensor]

    @property
    def run(self) -> Path:
        return self.file.parent

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """The run's config.json; empty where the file of weights lies elsewhere."""
        return read_json(self.run / "config.json", {})

    @property
    def images(self) -> dict[str, Any]:
        """What the header of the weights states of the images that they were trained on."""
        return read_facts(self.file)[1]

    @property
    def size(self) -> Size:
        return SIZES[self.header["size"]]

    @property
    def image_size(self) -> int:
        return int(self.header["image_size"])

    @property
    def patch_size(self) -> int:
        return int(self.header["patch_size"])

    @property
    def registers(self) -> int:
        """Register tokens; headers from before they were have none."""
        return int(self.header.get("registers", 0))

    @property
    def positions(self) -> str:
        """Kind of positions: sine, or rotary as DINOv3's."""
        return str(self.header.get("positions", "sine"))

    @property
    def timms(self) -> dict[str, Tensor]:
        """The encoder's tensors under the names of the timm network that it is."""
        return to_eva_names(self.encoder) if self.positions == "rotary" else self.encoder

    @property
    def pools_cls(self) -> bool:
        """Whether the joint space is of [CLS] instead of the mean of the patches."""
        return self.header.get("pooling") == "cls"

    @property
    def tower_shape(self) -> TowerShape:
        """The shape of encoder and bridge."""
        names = self.tensors("bridge.blocks.")
        depth = len({name.split(".")[0] for name in names})
        return TowerShape(
            str(self.header["size"]), self.patch_size, self.image_size, depth, self.registers,
            self.positions,
        )  # fmt: skip

    @property
    def tower(self) -> dict[str, Tensor]:
        """The tensors of encoder and bridge, under the names of `image_tower.build_tower`."""
        return self.timms | {f"bridge.{k}": v for k, v in self.tensors("bridge.").items()}

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors of a network beside the encoder, their names without `prefix`."""
        return {k.removeprefix(prefix): v for k, v in self.rest.items() if k.startswith(prefix)}


def read_json(path: Path, otherwise: Any) -> Any:
    """Return what a JSON file of a run holds, or `otherwise` where there is none.

    Raises ValueError where it is damaged.
    """
    try:
        return json.loads(path.read_text()) if path.is_file() else otherwise
    except ValueError as error:
        raise ValueError(f"{path}: not whole JSON ({error}); repair or remove it") from None


def read_source(path: Path) -> SourceRun:
    """Return the weights of a run directory or of one of its files.

    Raises ValueError where there are none, where they are no pre-training's, or where the encoder
    has modules that a plain ViT lacks.
    """
    file = path
    if path.is_dir():
        file = next((path / name for name in (MODEL, ENCODER) if (path / name).is_file()), path)
        if file == path and (path / FINETUNED).is_file():
            raise ValueError(f"{path}: a fine-tuned run; export the run that it began from")
        file = path / ENCODER if file == path else file
    elif path.is_file() and path.suffix != ".safetensors":
        raise ValueError(f"{path}: give a run directory, or its {ENCODER} or {MODEL}")
    tensors, header = read_weights(file)
    if not {"size", "image_size", "patch_size"} <= header.keys() or "classes" in header:
        raise ValueError(f"{file}: not the {ENCODER} or {MODEL} of a pre-training run")
    prefix = "encoder."
    encoder = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    rest = {k: v for k, v in tensors.items() if not k.startswith(prefix)} if encoder else {}
    encoder = {name: tensor.float().contiguous() for name, tensor in (encoder or tensors).items()}
    strange = sorted(name for name in encoder if not _PLAIN.fullmatch(name))
    if strange:
        raise ValueError(
            f"{file}: a plain ViT has no {strange[0]}; this encoder cannot be exported"
        )
    return SourceRun(file, header, encoder, rest)


def quoted(text: object) -> str:
    """Return text as Python's source has it, in double quotes."""
    return json.dumps(str(text), ensure_ascii=False)


def run_encoder(source: SourceRun) -> Encoder:
    """Return our own encoder with the run's weights, the reference for other libraries."""
    kind = source.size
    network = Encoder(
        image_size=source.image_size,
        patch_size=source.patch_size,
        width=kind.width,
        depth=kind.depth,
        heads=kind.heads,
        registers=source.registers,
        positions=source.positions,
    )
    load_all(network, source.encoder, source.file)
    return network.eval()


@torch.no_grad()
def run_features(source: SourceRun, image_BCHW: Tensor) -> Tensor:
    """Return what the run gives for normalised images: the mean of the patch tokens."""
    _, token_BND = run_encoder(source)(image_BCHW, None, len(image_BCHW))
    assert token_BND is not None
    return token_BND[:, 1:].mean(dim=1)


def example_images(*, oblong: bool = False) -> list[Image.Image]:
    """Return phantoms, square as the images of shards are, or cut to other shapes."""
    images = [Image.fromarray(draw(number, 512).image_HWC) for number in range(_EXAMPLES)]
    cut = [(0, 20 * i, 512, 512 - 10 * i) for i in range(_EXAMPLES)]
    return [image.crop(box) for image, box in zip(images, cut, strict=True)] if oblong else images


def preprocessed(images: Sequence[Image.Image], image_size: int) -> Tensor:
    """Return images preprocessed as in the run's own evaluation."""
    prepare = preparation(image_size)
    return torch.stack([prepare(image) for image in images])


def max_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return (one.double() - other.double()).abs().max().item()
