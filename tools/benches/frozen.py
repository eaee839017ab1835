"""How long frozen protocols take: features of a ViT on the processor, then each protocol."""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from benches.turns import OtherWork, called

LIMIT = 60.0  # seconds, promised for a protocol on 500 images at ViT-S
_SIDE = 512  # pixels of the shards, as make_shards writes them


def frozen(
    images: int = 500, size: str = "small", threads: int = 2
) -> dict[str, float | str | None]:
    """Return the seconds of the features and of each protocol on `images` phantoms.

    The weights are random, with bridge and text tower, and every protocol is run by `evaluate`:
    first logistic regression with nothing cached, which is what is promised under a minute, then
    all from the cache. Drawing the phantoms is not counted. cpu_s sums the threads: on a machine
    that does other things too it says more than the clock.
    """
    import torch

    from maskedclip.evaluate.features import FrozenEncoder
    from maskedclip.evaluate.protocols import evaluate

    logging.getLogger("maskedclip").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, run = draw(folder / "phantoms", images), random_run(folder / "run", size)
        datasets = [(shards, "disease")]

        def clock(key: str, protocol: str, out: str) -> None:
            start, used = time.perf_counter(), time.process_time()
            evaluate(run, datasets, (protocol,), folder / out, threads=threads,
                     cache=folder / "features")  # fmt: skip
            found[f"{key}_s"] = time.perf_counter() - start
            found[f"{key}_cpu_s"] = time.process_time() - used

        others = OtherWork()
        clock("cold_logistic", "logistic", "cold")
        share = others.share()
        for protocol in ("logistic", "linear", "knn", "zeroshot"):
            clock(protocol, protocol, "warm")
        found["features_s"] = found["cold_logistic_s"] - found["logistic_s"]
        found["bf16"] = float(FrozenEncoder(run).dtype == torch.bfloat16)
    return {
        **found,
        "images": float(images),
        **called(share, ratio=[LIMIT / found["cold_logistic_s"]]),
    }


def draw(directory: Path, images: int) -> Path:
    """Write labelled phantoms as make_shards stores photographs, without a split of their own."""
    from maskedclip.data.storage.shards import ShardWriter
    from maskedclip.shards.building.prepare_sample import encode
    from maskedclip.shards.phantoms.phantom import draw as drawn

    with ShardWriter(directory, "phantoms") as writer:
        for seed in range(images):
            phantom = drawn(seed, _SIDE)
            facts = {
                "labels": phantom.labels,
                "categories": list(phantom.categories),
                "sha256": str(seed),
            }
            writer.add(f"s{seed:06d}", encode(phantom.image_HWC, 95), facts)
    return directory


def random_run(directory: Path, size: str) -> Path:
    """Write the weights of an untrained model with bridge and text tower, as a run exports them."""
    import torch

    from maskedclip.models.checkpoints.files import export
    from maskedclip.models.maskedclip import build

    shape: dict[str, Any] = {
        "size": size, "image_size": 224, "patch_size": 16, "mask_ratio": 0.75, "bridge_depth": 4,
        "feature_decoder_depth": 4, "projection": 512, "text": "builtin", "text_tokens": 77,
        "text_dropout": 0.0,
    }  # fmt: skip
    torch.manual_seed(0)
    network, _ = build(**shape)
    directory.mkdir()
    export(network.state_dict(), shape, directory)
    return directory
