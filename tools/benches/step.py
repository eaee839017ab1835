"""A training step against the plain composition of public parts, each in processes of its own: on
a GPU where there is one, else on all cores.

The child processes are this file, as `step.py SIDE SIZE PAIRED UNPAIRED`.
"""

import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benches.turns import OtherWork, called, child_environment
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer

from maskedclip.config import Config, override
from maskedclip.data.stream import Batch
from maskedclip.engine.distributed import process_group
from maskedclip.engine.mfu import product_flops
from maskedclip.engine.step_guard import StepGuard
from maskedclip.models.maskedclip import SIZES
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod, train_step
from maskedclip.pretrain.methods.protocol import At
from maskedclip.pretrain.sources import to_device
from maskedclip.recipes import maskedclip_vitl

TOKENS = 24  # of a caption
WARMING, STEPS = 2, 3  # steps of a child; after two the memory of a step is all there
PRODUCT, PRODUCT_ON_GPU = 2048, 8192  # rows and columns of the square products


def step(
    size: str = "large", paired: int = 4, unpaired: int = 4, rounds: int = 3
) -> dict[str, float | str | None]:
    """Return images a second, share of the matrix rate and peak memory of both, in turn."""
    ours, theirs = [], []
    others = OtherWork()
    for _ in range(rounds):
        ours.append(measured("ours", size, paired, unpaired))
        theirs.append(measured("plain", size, paired, unpaired))
    images = paired + unpaired
    our_s, their_s = ([found["seconds"] for found in side] for side in (ours, theirs))
    shares = [found["flops"] / found["seconds"] / found["matrix_rate"] for found in ours]
    our_gib, their_gib = (max(found["peak_gib"] for found in side) for side in (ours, theirs))
    return {
        "images_per_s": images / statistics.median(our_s),
        "reference_images_per_s": images / statistics.median(their_s),
        "step_s": statistics.median(our_s),
        "reference_step_s": statistics.median(their_s),
        **called(
            others.share(),
            ratio=[b / a for a, b in zip(our_s, their_s, strict=True)],
            share_of_matrix_rate=shares,
        ),
        "matrix_tflops": statistics.median(found["matrix_rate"] for found in ours) / 1e12,
        "step_tflop": ours[0]["flops"] / 1e12,
        "peak_gib": our_gib,
        "reference_peak_gib": their_gib,
        "floor_gib": ours[0]["floor_gib"],  # weights, gradients and moments in fp32, and teacher
        "threads": len(os.sched_getaffinity(0)),
        "device": ours[0]["device"],
    }


def measured(side: str, size: str, paired: int, unpaired: int) -> dict[str, Any]:
    """Return what a process that trains on one side has found."""
    threads = str(len(os.sched_getaffinity(0)))
    done = subprocess.run(
        [sys.executable, __file__, side, size, str(paired), str(unpaired)],
        # as the local launcher sets it: waiting threads do not hinder what else runs here
        env=child_environment() | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(side: str, size: str, paired: int, unpaired: int) -> dict[str, Any]:
    """Return the median step of one side, beside products measured between its steps."""
    config = override(
        maskedclip_vitl(),
        {
            "model.size": size,
            "data.paired_batch": paired,
            "data.unpaired_batch": unpaired,
            "engine.precision": "bf16",
        },
    )
    image_BCHW, batch = drawn(config)
    with process_group() as device, tempfile.TemporaryDirectory() as place:
        image_BCHW, batch = image_BCHW.to(device), to_device(batch, device)
        if side == "ours":
            write_bert(Path(place))
            config = override(config, {"model.text": place})
            networks = MaskedClipMethod(config, device).networks
            flops = networks.model.step_flops(paired + unpaired, paired, TOKENS)
            parts: list[nn.Module] = [part for part in networks[:2] if part is not None]
            guard = StepGuard(networks.optimizer, device, spike=0.0)

            def work() -> Tensor:
                return train_step(networks, guard, image_BCHW, batch, At(0, 1, 1e-4), config)[
                    "loss"
                ]

        else:
            plain, flops = Plain(config).to(device), 0.0
            parts, work = [plain], plain.step_of(image_BCHW, batch)

        for _ in range(WARMING):
            work()
        seconds, rates = [], [matrix_rate(device)]
        for _ in range(STEPS):
            start = time.perf_counter()
            loss = work()
            finish(device)
            seconds.append(time.perf_counter() - start)
            rates.append(matrix_rate(device))
        assert loss.isfinite()
    numbers = [p.numel() * (4 if p.requires_grad else 1) for m in parts for p in m.parameters()]
    return {
        "seconds": statistics.median(seconds),
        "matrix_rate": statistics.median(rates),
        "flops": flops,
        "floor_gib": 4 * sum(numbers) / 2**30,
        "peak_gib": peak_bytes(device) / 2**30,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory in use so far: of tensors on a GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matrix_rate(device: torch.device) -> float:
    """Return FLOP a second of square products in bf16, on a CPU with all threads."""
    size = PRODUCT_ON_GPU if device.type == "cuda" else PRODUCT
    return product_flops(device, torch.bfloat16, size)


def drawn(config: Config) -> tuple[Tensor, Batch]:
    """Return normalised images and what comes with them: masks and captions drawn at random."""
    paired, images = config.data.paired_batch, config.data.paired_batch + config.data.unpaired_batch
    side, patches = config.model.image_size, (config.model.image_size // 16) ** 2
    generator = torch.Generator().manual_seed(0)
    hidden = round(patches * config.model.mask_ratio)
    lengths_A1 = torch.randint(8, TOKENS, (paired, 1), generator=generator)
    lengths_A1[0] = TOKENS
    batch = Batch(
        image_BCHW=torch.zeros(0),
        flip_B=torch.zeros(0),
        hidden_BN=torch.rand(images, patches, generator=generator).argsort(dim=1) < hidden,
        token_AL=torch.randint(1000, 20000, (paired, TOKENS), generator=generator),
        token_mask_AL=(torch.arange(TOKENS) < lengths_A1).long(),
        label_A=torch.arange(paired),
        keys=[],
        captions=[],
        lost=[],
    )
    return torch.randn(images, 3, side, side, generator=generator), batch


def write_bert(place: Path) -> None:
    """Write a BERT of the base shape with random weights, as if it had been downloaded."""
    BertModel(BertConfig(vocab_size=28996), add_pooling_layer=False).save_pretrained(place)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(28991))]
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(vocab=str(place / "vocab.txt")).save_pretrained(place)


class Plain(nn.Module):
    """The same method from public parts: ViTMAE, timm's blocks, BERT and open_clip's loss."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        shape, model = SIZES[config.model.size], config.model
        width = shape.width
        self.mae = ViTMAEForPreTraining(
            ViTMAEConfig(
                hidden_size=width,
                num_hidden_layers=shape.depth,
                num_attention_heads=shape.heads,
                intermediate_size=4 * width,
                decoder_hidden_size=shape.decoder_width,
                decoder_num_hidden_layers=shape.decoder_depth,
                decoder_num_attention_heads=shape.decoder_heads,
                decoder_intermediate_size=4 * shape.decoder_width,
                norm_pix_loss=True,
            )
        )

        def stack(depth: int) -> nn.Sequential:
            blocks = (Block(width, shape.heads, qkv_bias=True) for _ in range(depth))
            return nn.Sequential(*blocks, nn.LayerNorm(width))

        self.bridge = stack(model.bridge_depth)
        self.teacher_vit = copy.deepcopy(self.mae.vit).requires_grad_(False)
        self.teacher_bridge = copy.deepcopy(self.bridge).requires_grad_(False)
        self.feature_mask = nn.Parameter(torch.zeros(1, 1, width))
        self.feature_decoder = nn.Sequential(
            nn.Linear(width, width), stack(model.feature_decoder_depth), nn.Linear(width, width)
        )
        self.bert = BertModel(BertConfig(vocab_size=28996), add_pooling_layer=False)
        self.text_projection = nn.Linear(768, model.projection, bias=False)
        self.image_projection = nn.Linear(width, model.projection, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))
        self.momentum = model.teacher_momentum

    def step_of(self, image_BCHW: Tensor, batch: Batch) -> Callable[[], Tensor]:
        """Return a function that trains once."""
        from open_clip.loss import ClipLoss

        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
        contrast = ClipLoss()

        def work() -> Tensor:
            optimizer.zero_grad()
            with torch.autocast(image_BCHW.device.type, torch.bfloat16):
                loss = self(image_BCHW, batch, contrast)
            loss.backward()
            optimizer.step()
            self.follow()
            return loss.detach()

        return work

    def forward(self, image_BCHW: Tensor, batch: Batch, contrast: nn.Module) -> Tensor:
        """Return the weighted sum of the three losses."""
        paired = len(batch.token_AL)
        latent = self.mae.vit(image_BCHW)
        pixel = self.mae.decoder(latent.last_hidden_state, latent.ids_restore).logits
        target = self.mae.patchify(image_BCHW)
        target = target - target.mean(dim=-1, keepdim=True)
        target = target / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        error_BN = (pixel - target).square().mean(dim=-1)
        mim = (error_BN * latent.mask).sum() / latent.mask.sum()

        image_AD = self.image_projection(
            self.bridge(whole(self.mae.vit, image_BCHW[:paired]))[:, 1:].mean(dim=1)
        )
        hidden_ALD = self.bert(batch.token_AL, batch.token_mask_AL).last_hidden_state
        weight_AL1 = batch.token_mask_AL[:, :, None]
        text_AD = self.text_projection((hidden_ALD * weight_AL1).sum(1) / weight_AL1.sum(1))
        clip = contrast(
            F.normalize(image_AD, dim=-1), F.normalize(text_AD, dim=-1), self.logit_scale.exp()
        )
        with torch.no_grad():
            target = self.teacher_bridge(whole(self.teacher_vit, image_BCHW))[:, 1:]
        feature = self.feature_decoder(self.filled(latent))[:, 1:]
        mfd = -F.cosine_similarity(feature, target, dim=-1).mean()
        return mim + 0.01 * clip + 0.01 * mfd

    def filled(self, latent: Any) -> Tensor:
        """Return the latent tokens in their places, the mask token elsewhere (as in MAE)."""
        token_BKD, restore_BN = latent.last_hidden_state, latent.ids_restore
        (batch, patches), width = restore_BN.shape, token_BKD.shape[-1]
        masks = self.feature_mask.expand(batch, patches + 1 - token_BKD.shape[1], -1)
        x_BND = torch.cat([token_BKD[:, 1:], masks.to(token_BKD.dtype)], dim=1)
        x_BND = x_BND.gather(1, restore_BN[:, :, None].expand(-1, -1, width))
        x_BND = torch.cat([token_BKD[:, :1], x_BND], dim=1)
        return x_BND + self.mae.vit.embeddings.position_embeddings

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher's weights towards the student's, one after the other."""
        pairs = ((self.teacher_vit, self.mae.vit), (self.teacher_bridge, self.bridge))
        for teacher, student in pairs:
            for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                ours.mul_(self.momentum).add_(theirs, alpha=1 - self.momentum)


def whole(vit: Any, image_BCHW: Tensor) -> Tensor:
    """Return all tokens of whole images: transformers' ViTMAE has no pass that hides nothing."""
    embeddings = vit.embeddings
    x_BND = embeddings.patch_embeddings(image_BCHW) + embeddings.position_embeddings[:, 1:]
    first = embeddings.cls_token + embeddings.position_embeddings[:, :1]
    x_BND = torch.cat([first.expand(len(x_BND), -1, -1), x_BND], dim=1)
    for layer in vit.layers:
        x_BND = layer(x_BND, None)
    return vit.layernorm(x_BND)


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
