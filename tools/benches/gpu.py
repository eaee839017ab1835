"""A step on one GPU, in as many ways as nine minutes allow: a table for docs/plan.md.

Each row is measured in a process of its own, so that one which fails costs that row: this file, as
`gpu.py ROW DEVICE SIZE`. On the processor every line is run that can be (`--device cpu`).
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benches.step import finish, peak_bytes, write_bert
from benches.turns import child_environment
from torch import Tensor

from maskedclip.config import Config, FinetuneConfig, override
from maskedclip.data.stream import Batch
from maskedclip.engine.device_settings import grow_segments
from maskedclip.engine.distributed import process_group
from maskedclip.engine.mfu import peak_flops
from maskedclip.engine.step_guard import StepGuard
from maskedclip.plan.cost import plan
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod
from maskedclip.pretrain.methods.protocol import At
from maskedclip.pretrain.sources import to_device
from maskedclip.recipes import maskedclip_vitl

BUDGET_S, ROW_S = 520.0, 150.0  # of all rows, and of one
WARMING, STEPS = 3, 8  # on a GPU; a rehearsal takes one step of each
KERNELS = 12  # of the profile, the longest ones
RECOMPUTED = {"engine.activation_checkpointing": True}


class Row(NamedTuple):
    """One line of the table: a step of pre-training as `changes` have it, or another kind."""

    name: str
    size: str = "large"
    images: int = 240  # half of them paired
    tokens: int = 77  # of a caption
    changes: Mapping[str, Any] = {}
    kind: str = "step"  # or save, finetune


# by what would be missed most, as the time may not last
ROWS = (
    Row("as it is"),
    Row("attention varlen", changes={"engine.attention": "varlen"}),
    Row("attention cudnn", changes={"engine.attention": "cudnn"}),
    Row("compile", changes={"engine.compile": True}),
    Row("accumulate 2", changes={"optim.accumulate": 2}),
    Row("recompute, 180 + 180", images=360, changes=RECOMPUTED),
    Row("fine-tuning", images=16, kind="finetune"),
    Row("ViT-B", size="base", images=360, tokens=23),
    Row("ViT-S", size="small", images=360, tokens=23),
    Row("save", kind="save"),
    Row("accumulate 2, compile", changes={"engine.compile": True, "optim.accumulate": 2}),
    Row("fine-tuning, compile", images=16, kind="finetune", changes={"compile": True}),
    Row("compile, varlen", changes={"engine.compile": True, "engine.attention": "varlen"}),
)
COLUMNS = ("ms", "images_per_s", "mfu", "peak_gb", "planned_gb", "host_ms", "copy_ms", "note")


def gpu(device: str = "cuda", size: str = "") -> dict[str, Any]:
    """Return the numbers of each row, and all as a Markdown table.

    Raises ValueError where torch sees no GPU.

    Args:
        size: of the encoder in every row, with 2 + 2 images; "": each its own, of the paper.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "gpu: torch sees no GPU (python tools/doctor.py says why); --device cpu --size micro "
            "runs all of it on the processor, to see that it runs"
        )
    end = time.monotonic() + BUDGET_S
    rows = {row.name: _in_a_process(row, device, size, end) for row in ROWS}
    numbers = {
        f"{name}: {column}": found[column]
        for name, found in rows.items()
        for column in COLUMNS
        if column in found
    }
    card = "A rehearsal on the processor, one step a row"
    if device == "cuda":
        card = f"{torch.cuda.get_device_name()}, means of {STEPS} steps"
    return {
        "card": card,
        "torch": torch.__version__,
        **numbers,
        "kernels": rows[ROWS[0].name].get("kernels", []),
        "table": "\n".join(_table(card, rows)),
    }


def _in_a_process(row: Row, device: str, size: str, end: float) -> dict[str, Any]:
    left = min(ROW_S, end - time.monotonic())
    if left < 5:
        return {"note": "not run: the time is over"}
    # a rehearsal beside other work: threads that spin would take the others' time, and lose theirs
    alone = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if device == "cpu" else {}
    try:
        # killed in the midst of a compilation it would leave half a file in the user's cache
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            own = alone | {"TORCHINDUCTOR_CACHE_DIR": cache}
            done = subprocess.run(
                [sys.executable, __file__, row.name, device, size],
                env=child_environment() | own, capture_output=True, text=True, timeout=left,
                check=False,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"note": f"not measured: no end within {left:.0f} s"}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"note": f"failed: {last[0].rpartition('Error: ')[2][:160]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _table(card: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    words = ("ms", "images/s", "MFU", "GB", "GB planned", "ms to issue", "ms of copies", "note")
    lines = [
        f"{card}, torch {torch.__version__}, bf16, one rank:", "",
        f"| what | {' | '.join(words)} |", "|---" * (1 + len(words)) + "|",
    ]  # fmt: skip
    for name, found in rows.items():
        values = [found.get(column, "") for column in COLUMNS]
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v).replace("|", "/") for v in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def row_of(name: str, device: torch.device, size: str) -> dict[str, Any]:
    """Measure one row in this process."""
    row = next(row for row in ROWS if row.name == name)
    if size:  # for a rehearsal
        row = row._replace(size=size, images=4, tokens=8)
    if row.kind == "finetune":
        return finetuning(row, device)
    if row.kind == "save":
        return saving(device)
    return pretraining(row, device, profiled=row.name == ROWS[0].name)


def pretraining(row: Row, device: torch.device, *, profiled: bool) -> dict[str, Any]:
    """Return what steps of pre-training take, beside their plan; the kernels if `profiled`."""
    with tempfile.TemporaryDirectory() as place:
        if device.type == "cuda":
            write_bert(Path(place))
        changes = {
            "model.size": row.size,
            "model.text": place if device.type == "cuda" else "builtin",
            "data.paired_batch": row.images // 2,
            "data.unpaired_batch": row.images // 2,
            "engine.precision": "bf16",
        }
        config = override(maskedclip_vitl(), changes | dict(row.changes))
        method = MaskedClipMethod(config, device)
        guard = StepGuard(method.optimizer, device, spike=0.0)
        batches = [drawn(config, row.tokens, seed, device) for seed in range(2)]
        flops = method.step_flops(batches[0])
        planned = plan(
            config, nodes=1, gpus=1, gpu="a100-80", images=(1000, 1000), caption_tokens=row.tokens
        )
    copies: list[float] = []

    def work(step: int) -> None:
        start = time.perf_counter()
        batch = to_device(batches[step % 2], device)
        copies.append(time.perf_counter() - start)
        method.step(batch, At(step, 100, 1e-4), guard)

    found = timed(work, device, row.images)
    peak = peak_flops(device, torch.bfloat16)
    found |= {
        "mfu": flops / (found["ms"] / 1000) / peak,
        "planned_gb": planned.memory.total / 1e9,
        "copy_ms": 1000 * sorted(copies)[len(copies) // 2],
    }
    return found | ({"kernels": kernels(work, device)} if profiled else {})


def finetuning(row: Row, device: torch.device) -> dict[str, Any]:
    """Return what steps of fine-tuning take, from images that are prepared already."""
    from maskedclip.finetune.epoch import train_step
    from maskedclip.models.classifier import TaskHead, adamw_by_layer, build_classifier, on_device

    config, head = override(FinetuneConfig(), dict(row.changes)), TaskHead()
    built, _ = build_classifier(
        "random", image_size=224, num_classes=5, drop_path=config.drop_path, size=row.size
    )
    model = on_device(built, device).train()
    optimizer = adamw_by_layer(
        model, layer_decay=config.layer_decay, weight_decay=config.weight_decay
    )
    network = torch.compile(model, dynamic=False, fullgraph=True) if config.compile else model
    generator = torch.Generator().manual_seed(0)
    image_BCHW = pinned(torch.randn(row.images, 3, 224, 224, generator=generator), device)
    label_B = torch.randint(5, (row.images,), generator=generator).numpy()

    def work(_step: int) -> None:
        on_it_BCHW = image_BCHW.to(device, non_blocking=True)
        target_B = head.targets(label_B, device)
        train_step(network, optimizer, head, on_it_BCHW, target_B, config, None)

    return timed(work, device, row.images)


def saving(device: torch.device) -> dict[str, Any]:
    """Return for how long a checkpoint keeps training waiting."""
    from benches.save import save

    found = save(millions=200 if device.type == "cuda" else 1, rounds=1)
    both = f"at once {found['at_once_s']:.2f} s, torch's dcp.save {found['plain_s']:.2f} s"
    return {"ms": 1000 * float(found["aside_s"] or 0), "note": f"{found['state_gb']} GB; {both}"}


def timed(work: Callable[[int], None], device: torch.device, images: int) -> dict[str, Any]:
    """Return the time of a step, how far the host is ahead, memory, and whether a step waits."""
    warming, steps = (WARMING, STEPS) if device.type == "cuda" else (1, 1)
    for step in range(warming):
        work(step)
    finish(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    for step in range(steps):
        work(step)
    issued = time.perf_counter() - start
    finish(device)
    seconds = (time.perf_counter() - start) / steps
    return {
        "ms": 1000 * seconds,
        "images_per_s": images / seconds,
        "host_ms": 1000 * issued / steps,
        "peak_gb": peak_bytes(device) / 1e9,
        "note": waits(work, device),
    }


def waits(work: Callable[[int], None], device: torch.device) -> str:
    """Return torch's word on the first thing in a step that the host waits for."""
    if device.type != "cuda":
        return "waits not looked for"
    torch.cuda.set_sync_debug_mode("error")
    try:
        work(0)
    except RuntimeError as error:
        return f"WAITS: {str(error).splitlines()[0][:120]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no wait"


def kernels(work: Callable[[int], None], device: torch.device) -> list[str]:
    """Return the kernels that take most of a step, with their share and their number."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as profiled:
        work(0)
        finish(device)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    # what runs on the device alone: a row of the host would count its kernels once more
    events = [e for e in profiled.key_averages() if not cuda or "CUDA" in str(e.device_type)]
    whole = sum(getattr(event, name) for event in events)
    longest = sorted(events, key=lambda event: -getattr(event, name))[:KERNELS]
    return [f"{getattr(e, name) / whole:.1%} {e.count} x {e.key[:90]}" for e in longest]


def drawn(config: Config, tokens: int, seed: int, device: torch.device) -> Batch:
    """Return a batch as the stream gives it: images in bytes, all of it pinned for a GPU."""
    generator = torch.Generator().manual_seed(seed)
    paired, images = config.data.paired_batch, config.data.paired_batch + config.data.unpaired_batch
    side, patches = config.model.image_size, (config.model.image_size // 16) ** 2
    hidden = round(patches * config.model.mask_ratio)
    draw_BN = torch.rand(images, patches, generator=generator)
    pixels = (images, side, side, 3)
    batch = Batch(
        image_BCHW=torch.randint(0, 255, pixels, dtype=torch.uint8, generator=generator),
        flip_B=torch.rand(images, generator=generator) < 0.5,
        hidden_BN=draw_BN.argsort(dim=1) < hidden,
        token_AL=torch.randint(1, 500, (paired, tokens), generator=generator),
        token_mask_AL=torch.ones(paired, tokens, dtype=torch.int64),
        label_A=torch.arange(paired),
        keys=[],
        captions=[],
        lost=[],
    )
    fields = batch._asdict().items()
    tensors: dict[str, Any] = {k: pinned(v, device) for k, v in fields if isinstance(v, Tensor)}
    batch = batch._replace(**tensors)
    return batch._replace(image_BCHW=batch.image_BCHW.permute(0, 3, 1, 2))


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor in memory from which copies to a GPU are not waited for."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def main(arguments: Sequence[str]) -> None:
    """Measure the row that `_in_a_process` names."""
    name, kind, size = arguments
    if name == "save":  # joins a process group of its own
        print(json.dumps(row_of(name, torch.device(kind), size)))
        return
    with process_group() as device:
        assert device.type == kind, f"{device} in place of {kind}"
        print(json.dumps(row_of(name, device, size)))


if __name__ == "__main__":
    grow_segments()
    main(sys.argv[1:])
