"""What a step does to a GPU, found without one: its copies and waits under fake CUDA tensors, and
what is alive from one step to the next."""

import gc
import weakref
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from maskedclip.config import Config, override
from maskedclip.data.transforms import normalise
from maskedclip.engine.optimizer import adamw, scaled_adamw
from maskedclip.engine.step_guard import StepGuard
from maskedclip.models.blocks import attend_by
from maskedclip.models.dinov2 import DinoTeacher, HeadShape, Student
from maskedclip.models.maskedclip import MaskedCLIP, Outputs, build
from maskedclip.models.teacher import Teacher
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import dinov2
from maskedclip.pretrain.methods.dinov2 import DinoNetworks, DinoV2Method
from maskedclip.pretrain.methods.maskedclip import MaskedClipNetworks, train_step
from maskedclip.pretrain.methods.protocol import At
from maskedclip.pretrain.sources import to_device
from maskedclip.recipes import maskedclip_vits
from tests.plan.traced import _batch, _networks
from tests.pretrain import test_dinov2

WAITS = ("_local_scalar_dense", "nonzero", "aten.equal.", "unique", "masked_select")


class Waits(TorchDispatchMode):
    """Lists what the host waits for: values read, and copies that are not asked to be async."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.copied: list[torch.Tensor] = []  # what lay in the host's memory

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = str(func)
        tensors = [x for x in tree_flatten((args, kwargs, out))[0] if isinstance(x, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if any(word in name for word in WAITS):
            self.found[name] += 1
        if devices == {"cpu", "cuda"}:
            copies = "_to_copy" in name or "copy_" in name
            self.copied += [x for x in args if isinstance(x, torch.Tensor) and x.is_cpu]
            if not (copies and (kwargs or {}).get("non_blocking")):
                self.found[f"{name} between cpu and cuda"] += 1
        return out


@pytest.fixture
def fake_cuda():
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield FakeTensorMode()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("accumulate", "attention"),
    [(1, "sdpa"), (2, "sdpa"), pytest.param(1, "varlen", marks=pytest.mark.slow)],
)
def test_no_copy_and_no_wait_within_a_step_but_that_of_the_first_constants(
    fake_cuda, accumulate, attention, monkeypatch
):
    small = {"data.paired_batch": 16, "data.unpaired_batch": 16, "model.text": "builtin"}
    config = override(maskedclip_vits(), small | {"optim.accumulate": accumulate})
    with torch.device("meta"):
        model, teacher = _networks(config)
    assert isinstance(teacher, Teacher)
    attend_by(attention, [model, teacher], torch.bfloat16, (9, 0))
    with fake_cuda:
        for module in (model, teacher):
            module._apply(lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
        optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.05)
        networks = MaskedClipNetworks(model, teacher, optimizer)
        guard = StepGuard(optimizer, torch.device("cuda"), spike=10.0)
        host = _batch(config, 4, 12)
        rows = len(host.hidden_BN)
        host = host._replace(
            flip_B=torch.zeros(rows, dtype=torch.bool),
            image_BCHW=torch.zeros(rows, 224, 224, 3, dtype=torch.uint8).permute(0, 3, 1, 2),
        )
        # autograd's engine wants a real device: a backward pass is not looked into
        monkeypatch.setattr(torch.Tensor, "backward", lambda _: give_gradients(model))
        monkeypatch.setattr(torch.autograd, "grad", lambda _, of: [torch.empty_like(x) for x in of])
        found = []
        for step in range(2):
            with Waits() as waits:
                batch = to_device(host, torch.device("cuda"))
                image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
                train_step(networks, guard, image_BCHW, batch, At(step, 9, 1e-4), config)
            found.append(dict(waits.found))
    assert sum(found[0].values()) == 2, found[0]  # mean and deviation, once a run
    assert found[1] == {}


@pytest.mark.parametrize("targets", ["centre", pytest.param("sinkhorn", marks=pytest.mark.slow)])
def test_no_copy_and_no_wait_within_a_step_of_dinov2_but_those_of_the_first_constants(
    fake_cuda, targets, small, monkeypatch
):
    config = test_dinov2.shrunk(small, **{"dino.targets": targets, "model.size": "micro"})
    with torch.device("meta"):
        encoder = build(**DinoV2Method.shape(config))[0].encoder
        model = Student(encoder, HeadShape(64, 32, 64, separate=True), local_grid=1)
        teacher = DinoTeacher(model)
    with fake_cuda:
        for module in (model, teacher):
            module._apply(lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
        optimizer = scaled_adamw(
            model, lambda _: 1.0, betas=(0.9, 0.999), eps=1e-8, slow=("prototypes",)
        )
        networks = DinoNetworks(model, teacher, optimizer)
        guard = StepGuard(optimizer, torch.device("cuda"), spike=10.0)
    crops = test_dinov2.crops_of(config)
    crops = crops._replace(drop_BXF=torch.rand(4, 4, 2 * len(encoder.blocks)))
    with fake_cuda as mode:
        fields = crops._asdict().items()
        whole = {k: mode.from_tensor(v) for k, v in fields if isinstance(v, torch.Tensor)}
        host = _batch(config, 1, 12)._replace(crops=crops._replace(**whole))
        monkeypatch.setattr(torch.Tensor, "backward", lambda _: give_gradients(model))
        found = []
        for step in range(2):
            with Waits() as waits:
                batch = to_device(host, torch.device("cuda"))
                dinov2.train_step(networks, guard, batch.crops, At(step, 9, 1e-4), config)
            found.append(dict(waits.found))
    assert set(found[0]) == {"aten._to_copy.default between cpu and cuda"}  # constants, once a run
    assert found[1] == {}
    # crops of all sizes lie in one block, which the loader has pinned: nothing is gathered first
    assert all(tensor.is_contiguous() for tensor in waits.copied)
    images = [tensor.shape for tensor in waits.copied if tensor.dtype == torch.uint8]
    assert images == [crops.image_BL.shape]


def give_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)


def test_nothing_of_a_step_lives_in_the_next(small: Config):
    config = override(small, {"optim.steps": 4, "engine.pictures_every": 2})
    alive: list[weakref.ref[torch.Tensor]] = []
    checked = []

    def before(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, MaskedCLIP) and alive:
            gc.collect()
            outputs = (ref for ref in alive if ref() is not None)
            # a backward pass puts gradients where the forward pass has kept what it needs
            gradients = (name for name, x in module.named_parameters() if x.grad is not None)
            checked.append([*outputs, *gradients])
            alive.clear()

    def after(_module: torch.nn.Module, _args: object, out: object) -> None:
        if isinstance(out, Outputs):
            alive.extend(weakref.ref(x) for x in (out.pixel_BMP, out.feature_BND, out.image_AD))

    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(before),
        torch.nn.modules.module.register_module_forward_hook(after),
    ]
    try:
        pretrain(config)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(checked) > 3, "and what is measured after the last"
    assert not any(checked)
