"""Complete named runs, each a function made from another one.

The docstring's first line is what `--help` shows; then what it costs and what to expect.
"""

from collections.abc import Callable

from maskedclip.config import Config, override


def maskedclip_vitl() -> Config:
    """The paper's run: ViT-L, Bio_ClinicalBERT, 720 + 720 images a step, 200 epochs, 4 GPUs.

    data.paired and data.unpaired name your shard directories; the paper's paired sets are ODIR-5K,
    AIROGS and EyePACS. Its own result after fine-tuning: average AUROC 82.1 with 10 % and 89.0
    with 100 % of the labels (Table 1). Planned, at 40 % of the matrix rate (tools/plan.py): 537 M
    parameters, 808 TFLOP a step, 26 hours on 4 A100-80 of 79.6 GB each, or 29 hours of 42 GB with
    optim.accumulate=2. Not yet run here: no GPU.
    """
    return Config(name="maskedclip_vitl")


def maskedclip_vitb() -> Config:
    """The paper's recipe with a ViT-B encoder.

    Planned as maskedclip_vitl: 274 M parameters, 10 hours on 4 A100-80 of 46 GB each; 300 + 300
    images a GPU fit. Nothing is known of its scores yet.
    """
    return override(maskedclip_vitl(), {"name": "maskedclip_vitb", "model.size": "base"})


def maskedclip_vits() -> Config:
    """The paper's recipe with a ViT-S encoder and the built-in text tower.

    Planned as maskedclip_vitl: 41 M parameters, 2.4 hours on 4 A100-80 of 20 GB each, if 9,600
    images a second can be read. Nothing is known of its scores yet.
    """
    changes = {"name": "maskedclip_vits", "model.size": "small", "model.text": "builtin"}
    return override(maskedclip_vitl(), changes)


def maskedclip_vitt() -> Config:
    """The paper's recipe with a ViT-Ti encoder and the built-in text tower.

    Planned as maskedclip_vitl: 12 M parameters, 0.7 hours on 4 A100-80 of 10 GB each, if 32,500
    images a second can be read. 400 steps of 32 images take 27 minutes on 2 cores
    (docs/real_data.md) and are too few to gain anything.
    """
    return override(maskedclip_vits(), {"name": "maskedclip_vitt", "model.size": "tiny"})


def maskedclip() -> Config:
    """The full method under its name in the tables: maskedclip_vitl itself."""
    return override(maskedclip_vitl(), {"name": "maskedclip"})


def mae() -> Config:
    """Table 1's MAE: ViT-L on all images, E_I and D_I alone; no text, no teacher.

    Planned as maskedclip_vitl: 325 M parameters, 5.5 hours on 4 A100-80 of 27 GB each, if 4,200
    images a second can be read. The paper's: average AUROC 76.7 with 10 % and 87.3 with 100 % of
    the labels.
    """
    changes = {
        "name": "mae",
        "loss.clip": 0.0,
        "loss.mfd": 0.0,
        "model.bridge_depth": 0,
        "after.protocols": ("logistic",),
    }
    return override(maskedclip_vitl(), changes)


def clip() -> Config:
    """Table 1's CLIP: ViT-L on the pairs alone, each the only positive of itself.

    An epoch is a pass of the pairs. Planned as maskedclip_vitl: 412 M parameters, 6.5 hours on 4
    A100-80 of 34 GB each. The paper's: average AUROC 73.7 with 10 % and 83.7 with 100 % of the
    labels.
    """
    changes = {
        "name": "clip",
        "data.unpaired_batch": 0,
        "loss.mim": 0.0,
        "loss.clip": 1.0,
        "loss.mfd": 0.0,
        "loss.label_guided": False,
        "model.bridge_depth": 0,
    }
    return override(maskedclip_vitl(), changes)


def clip_labels() -> Config:
    """CLIP whose pairs of the same findings are positives of each other (eqs. 2-4)."""
    return override(clip(), {"name": "clip_labels", "loss.label_guided": True})


def dinov2() -> Config:
    """Table 1's DINOv2: ViT-L on all images, DINO + iBOT + KoLeo; no text; the teacher is exported.

    Facebook's vitl16_short on the images, epochs and warm-up of the other methods: 2 crops of 224
    pixels and 8 of 96, learning rate 0.004 sqrt(images a step / 1024), which you set with the
    batch. Differences: fixed sine positions and no layer scale, as all encoders here; one of an
    image's two large crops is masked; heads are separate. Planned as maskedclip_vitl: 350 M
    parameters, 90 hours on 4 A100-80 of 46.6 GB each. Not yet run at this size: no GPU. The
    paper gives neither its batch nor its epochs.
    """
    changes = {
        "name": "dinov2",
        "method": "dinov2",
        "data.crop_area": (0.32, 1.0),
        "loss.mim": 0.0,
        "loss.clip": 0.0,
        "loss.mfd": 0.0,
        "model.bridge_depth": 0,
        "optim.lr": 0.00474,
        "optim.layer_decay": 0.9,
        "optim.betas": (0.9, 0.999),
        "optim.weight_decay": 0.04,
        "optim.clip_norm": 3.0,
        "engine.activation_checkpointing": True,
        "after.protocols": ("logistic",),
    }
    return override(maskedclip_vitl(), changes)


def simmim() -> Config:
    """SimMIM: ViT-B on all images, mask tokens in the input, a linear head, L1; no text.

    The published ViT-B recipe (masks of 32 pixels, 60 %, crops of 67 to 100 %, rate 1e-4 per 512
    images, AdamW 0.9 and 0.999, clipped at 5) on the epochs, warm-up and schedule of the other
    methods; fixed sine positions in place of a relative bias. Planned as maskedclip_vitl: 86 M
    parameters, 4.9 hours on 4 A100-80 of 23 GB each. Not yet run at this size: no GPU.
    """
    changes = {
        "name": "simmim",
        "method": "simmim",
        "data.crop_area": (0.67, 1.0),
        "model.mask_ratio": 0.6,
        "model.mask_unit": 2,
        "model.bridge_depth": 0,
        "loss.clip": 0.0,
        "loss.mfd": 0.0,
        "loss.normalise_pixels": False,
        "optim.base_lr": 5e-5,
        "optim.betas": (0.9, 0.999),
        "optim.clip_norm": 5.0,
        "after.protocols": ("logistic",),
    }
    return override(maskedclip_vitb(), changes)


def mae_clip() -> Config:
    """Table 2's first row: MAE and label-guided CLIP on one encoder, without a bridge.

    Planned as maskedclip_vitl: 434 M parameters, 15 hours on 4 A100-80 of 63 GB each. The paper's:
    average AUROC 78.2 with 10 % of the labels.
    """
    changes = {"name": "mae_clip", "loss.mfd": 0.0, "model.bridge_depth": 0}
    return override(maskedclip_vitl(), changes)


def mae_clip_bridge() -> Config:
    """Table 2's second row: the bridge between them, without masked feature distillation.

    Planned as maskedclip_vitl: 484 M parameters, 16 hours on 4 A100-80 of 67 GB each. The paper's:
    average AUROC 79.0 with 10 % of the labels.
    """
    return override(maskedclip_vitl(), {"name": "mae_clip_bridge", "loss.mfd": 0.0})


def demo() -> Config:
    """Everything once in a few minutes on a laptop: phantoms, three losses, export, scores.

    5 minutes on 2 cores. Macro AUROC over 6 diseases of 600 held-out phantoms: logistic
    regression 86.1 to 88.3, zero-shot 76.3 to 86.0 over three seeds; an untrained encoder has 72.3
    (2026-11-29). Crops and length were chosen on other phantoms.
    """
    changes = {
        "name": "demo",
        "data.paired": ("shards/phantom_paired",),
        "data.unpaired": ("shards/phantom_unpaired",),
        "data.paired_batch": 32,
        "data.unpaired_batch": 16,
        "data.draw_phantoms": 3000,
        "data.crop_area": (0.6, 1.0),  # what a caption names is in the crop
        "model.size": "micro",
        "model.image_size": 96,
        "model.bridge_depth": 2,
        "model.feature_decoder_depth": 2,
        "model.text": "builtin",
        "model.teacher_momentum": 0.99,  # the paper's 0.999 looks back over 1,000 steps
        "loss.clip": 1.0,  # at the paper's 0.01 little is learnt of captions in so short a run
        "optim.steps": 600,
        "optim.base_lr": 2e-3,
        "optim.epochs": 20,
        "optim.warmup_epochs": 2,
        "engine.precision": "fp32",  # as fast as bf16 at this size
        "engine.save_every": 150,
        "engine.pictures_every": 100,
        "log.shares_every": 500,  # twice in so short a run, as an alarm needs
        "log.least_share": 0.0002,  # beside loss.clip of 1 mfd has 0.03 to 0.1 % of the gradient
        "after.datasets": ("shards/phantom_heldout",),
        "after.task": "disease",
        "after.beside_start": True,
    }
    return override(maskedclip_vitl(), changes)


def dinov2_demo() -> Config:
    """DINOv2 in minutes on a laptop: phantoms, centred targets, the teacher beside random weights.

    2.6 minutes of one core for 240 steps, phantoms and scores apart. Logistic regression on 600
    held-out phantoms of 6 diseases: macro AUROC 76.3 [73.6, 78.8], of an untrained encoder 72.3
    [69.6, 74.8], paired difference 4.1 [1.6, 6.5] (2026-11-30, one seed). Its fields were chosen
    by what the targets tell of an image, not by scores.
    """
    changes = {
        "name": "dinov2_demo",
        "data.paired_batch": 0,
        "data.paired": ("shards/phantom_paired",),  # not read; which phantoms the others are
        "data.unpaired": ("shards/phantom_unpaired",),
        "data.unpaired_batch": 32,
        "data.draw_phantoms": 3000,
        "model.size": "micro",
        "model.image_size": 96,
        "model.text": "builtin",
        "dino.local_crops": 4,
        "dino.local_size": 48,
        "dino.head_width": 512,
        "dino.bottleneck": 128,
        "dino.prototypes": 512,
        "dino.teacher_temperature": (0.04, 0.04),
        "dino.momentum": 0.98,  # 0.992 looks back over half of so short a run
        "dino.freeze_epochs": 20.0,  # all (docs/recipes.md)
        "dino.patch_lr": 1.0,
        "dino.drop_path": 0.0,
        "optim.steps": 240,
        "optim.lr": 1e-3,
        "optim.layer_decay": 1.0,
        "optim.epochs": 20,
        "optim.warmup_epochs": 2,
        "engine.activation_checkpointing": False,
        "engine.precision": "fp32",
        "after.datasets": ("shards/phantom_heldout",),
        "after.task": "disease",
        "after.beside_start": True,
    }
    return override(dinov2(), changes)


def maskedclip_laptop() -> Config:
    """The smallest run on real photographs that learns: ODIR-5K alone, 2 cores, under an hour.

    shards/odir5k is both sources: with captions, and as images alone; test images of its tasks stay
    out. Compared at the end with an untrained encoder on the eight labels of held-out patients.
    """
    changes = {
        "name": "maskedclip_laptop",
        "data.paired": ("shards/odir5k",),
        "data.unpaired": ("shards/odir5k",),
        "data.leave_out_tests": True,
        "data.draw_phantoms": 0,
        "data.crop_area": (0.4, 1.0),
        "model.image_size": 112,
        "optim.steps": 4000,
        "engine.save_every": 500,
        "engine.pictures_every": 500,
        "after.datasets": ("shards/odir5k",),
        "after.task": "diseases",
        "after.protocols": ("logistic", "knn", "zeroshot"),
    }
    return override(demo(), changes)


def maskedclip_vits_continue() -> Config:
    """A published ViT-S/14 (DINOv2) continued on ODIR-5K, beside what it was, on held-out patients.

    init_from and model.text come from a hub (tools/prefetch.py maskedclip_vits_continue), or name
    folders. 22 minutes on one core; AUROC of eight labels on held-out patients 76.7 before, 81.6
    after (2026-11-29, one seed). The rate was chosen on validation patients (docs/replication.md).
    """
    changes = {
        "name": "maskedclip_vits_continue",
        "init_from": "facebook/dinov2-small",
        "data.paired": ("shards/odir5k",),
        "data.unpaired": ("shards/odir5k",),
        "data.paired_batch": 32,
        "data.unpaired_batch": 16,
        "data.leave_out_tests": True,
        "model.patch_size": 14,
        "model.image_size": 112,
        "model.text": "sentence-transformers/all-MiniLM-L6-v2",
        "model.text_tokens": 32,
        "loss.clip": 1.0,  # at 0.01 reconstruction undoes what the weights could tell apart
        "optim.lr": 3e-5,
        "optim.steps": 250,
        "engine.log_every": 10,
        "engine.save_every": 50,
        "after.datasets": ("shards/odir5k",),
        "after.task": "diseases",
        "after.protocols": ("logistic", "knn"),
        "after.beside_start": True,
    }
    return override(maskedclip_vits(), changes)


RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (
        demo, dinov2_demo, maskedclip_laptop, maskedclip_vits_continue, maskedclip_vitl,
        maskedclip_vitb, maskedclip_vits, maskedclip_vitt,
        mae, clip, clip_labels, dinov2, simmim, mae_clip, mae_clip_bridge, maskedclip,
    )
}  # fmt: skip
