"""The lines that an export prints, run as they stand, give the features of maskedclip.load."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import maskedclip
from maskedclip.models.maskedclip import SIZES
from maskedclip.models.pretrained import ENCODER
from maskedclip.weights.export import export
from maskedclip.weights.source_run import example_images
from tests.untrained import exported

ROOT = Path(__file__).parents[2]
SMALL = {"size": "small", "terms": ("mim",), "image_size": 64}
LARGE = {"size": "large", "terms": ("mim",), "image_size": 32}
# what a user goes on with behind the printed lines, once for each target
GO_ON = {
    "timm": """
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
row = model(transform(image)[None])""",
    "hf": """
processor = AutoImageProcessor.from_pretrained(FOLDER, backend="pil")
pixels = processor(image, return_tensors="pt")
row = model(**pixels).last_hidden_state[:, 1:].mean(1)""",
    "onnx": """
import json
facts = json.loads(session.get_modelmeta().custom_metadata_map["maskedclip"])
from maskedclip.data.labelled_views import preparation
pixels = preparation(facts["image_size"])(image)[None].numpy()
row = torch.from_numpy(session.run(["feature"], {"image": pixels})[0])""",
    "open_clip": """
from maskedclip.data.labelled_views import preparation
row = model.eval().encode_image(preparation(SIZE)(image)[None], normalize=True)""",
    "retfound": """
from timm.models.vision_transformer import VisionTransformer
from maskedclip.data.labelled_views import preparation
model = VisionTransformer(
    img_size=SIZE, embed_dim=state["cls_token"].shape[-1], num_classes=0,
    depth=max(int(n.split(".")[1]) for n in state if n.startswith("blocks.")) + 1, num_heads=HEADS,
).eval()
model.load_state_dict(state)
row = model.forward_features(preparation(SIZE)(image)[None])[:, 1:].mean(1)""",
}
# RETFound's main_finetune.py reads its --finetune so; this one stops there
MAIN_FINETUNE = """
import argparse, timm, torch
from PIL import Image
from maskedclip.data.labelled_views import preparation
parser = argparse.ArgumentParser()
parser.add_argument("--model"); parser.add_argument("--finetune")
parser.add_argument("--input_size", type=int)
args = parser.parse_args()
model = timm.create_model(args.model + "_224", img_size=args.input_size, num_classes=0).eval()
content = torch.load(args.finetune, map_location="cpu", weights_only=False)["model"]
assert not model.load_state_dict(content, strict=False).missing_keys
image = preparation(args.input_size)(Image.open("phantom.png"))[None]
with torch.no_grad():
    torch.save(model.forward_features(image)[:, 1:].mean(1), "row.pt")
"""


def printed(summary: str) -> str:
    """Return the code at the end of what an export prints."""
    return summary.split("it opens with:\n")[1]


def row_of_a_child(folder: Path, command: list[str]) -> Tensor:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "row.pt", weights_only=True)


def assert_same_features(to: str, changes: dict[str, object], folder: Path) -> None:
    """Export, run the printed lines in a process of its own, and compare unit rows."""
    run = folder / "a run's"  # a name that has to be quoted
    exported(run, **changes)
    code = printed(export(run, to, folder / "to here"))
    image = example_images()[0]
    image.save(folder / "phantom.png")
    whole = to == "open_clip"  # both towers: rows of the joint space
    model = maskedclip.load(run if whole else run / ENCODER)
    if code.startswith("python main_finetune.py"):
        (folder / "main_finetune.py").write_text(MAIN_FINETUNE)
        command = [sys.executable, *shlex.split(code)[1:]]
    else:
        heads = SIZES[str(changes.get("size", "micro"))].heads
        names = f"FOLDER, SIZE, HEADS = {str(folder / 'to here')!r}, {model.image_size}, {heads}\n"
        lines = [
            "import torch\nfrom PIL import Image\nimage = Image.open('phantom.png')",
            names + code, "with torch.no_grad():",
            *(f"    {line}" for line in GO_ON[to].splitlines()),
            "torch.save(row, 'row.pt')",
        ]  # fmt: skip
        command = [sys.executable, "-c", "\n".join(lines)]
    row_1D = F.normalize(row_of_a_child(folder, command), dim=-1)
    assert (row_1D - model.encode_image([image])).abs().max() <= 1e-5


def test_timms_line_gives_the_features_of_the_run(tmp_path: Path) -> None:
    assert_same_features("timm", SMALL, tmp_path)


@pytest.mark.slow
def test_timms_line_gives_the_features_of_a_large_vit(tmp_path: Path) -> None:
    assert_same_features("timm", LARGE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "changes"),
    [
        ("hf", SMALL), ("onnx", SMALL), ("open_clip", {}), ("retfound", SMALL), ("retfound", LARGE),
    ],
)  # fmt: skip
def test_the_lines_of_the_other_libraries_do(
    to: str, changes: dict[str, object], tmp_path: Path
) -> None:
    assert_same_features(to, changes, tmp_path)
