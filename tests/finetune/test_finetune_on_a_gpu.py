"""What a step of fine-tuning does to a GPU, found without one, and what is compiled of it."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from maskedclip.config import FinetuneConfig
from maskedclip.data.labelled import LabelledSample, Task
from maskedclip.data.labelled_views import LabelledBatch
from maskedclip.engine import distributed
from maskedclip.engine.checkpoint import Checkpoints, restore
from maskedclip.engine.distributed import process_group
from maskedclip.finetune.epoch import targets, train_step
from maskedclip.finetune.loop import finetune
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.classifier import TaskHead, adamw_by_layer, build_classifier, on_device
from tests.colours import config_of, two_colours
from tests.pretrain.test_on_a_gpu import Waits

CUDA = torch.device("cuda")


def six(kind: str) -> Task:
    """Return six samples of a kind of task."""
    samples = [
        LabelledSample(i, f"s{i}", i % 3, "train", None, f"s{i}", (i % 3,), 40.0 + i)
        for i in range(6)
    ]
    return Task("of", ("a", "b", "c") if kind != "number" else ("of",), samples, [], kind=kind)


@pytest.mark.parametrize(
    ("kind", "mixing"),
    [("class", {}), ("labels", {"mixup": 0.8, "cutmix": 1.0}), ("number", {"cutmix": 1.0})],
)
def test_no_copy_and_no_wait_within_a_step(kind, mixing, monkeypatch):
    task, head = six(kind), TaskHead(kind, 42.0, 2.0)
    config = FinetuneConfig(drop_path=0.1, **mixing)
    with torch.device("meta"):
        model, _ = build_classifier(
            "random", image_size=32, num_classes=len(task.classes), drop_path=0.1, size="micro"
        )
    with FakeTensorMode():
        model._apply(lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
        model.train()
        optimizer = adamw_by_layer(model, layer_decay=0.9, weight_decay=0.05)
        # autograd's engine wants a real device: a backward pass is not looked into
        monkeypatch.setattr(torch.Tensor, "backward", lambda _: give_gradients(model))
        # nor into autocast, which torch turns off where it sees no GPU
        monkeypatch.setattr(distributed, "_fast_bf16", lambda _: False)
        views = LabelledBatch(torch.zeros(6, 3, 32, 32), task.samples, [])
        weight_Y = torch.ones(3, device="cuda") if kind == "class" else None
        for step in range(2):
            with Waits() as waits:
                image_BCHW, target = targets(views, CUDA, task, head, config, 0, step)
                loss = train_step(model, optimizer, head, image_BCHW, target, config, weight_Y)
    assert loss.device.type == target.device.type == "cuda"
    assert waits.found == {}


def give_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)


def a_resnet() -> ResNet:
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=2, channels=(8, 8, 8, 8))


def test_a_resnet_lies_channels_last_on_a_device_and_no_vit_does():
    resnet = a_resnet()
    vit, _ = build_classifier(
        "random", image_size=32, num_classes=2, drop_path=0.0, size="micro"
    )  # fmt: skip
    last, meta = {"memory_format": torch.channels_last}, torch.device("meta")
    assert not on_device(resnet, torch.device("cpu")).layer1[0].conv1.weight.is_contiguous(**last)
    assert on_device(resnet, meta).layer1[0].conv1.weight.is_contiguous(**last)
    assert on_device(vit, meta).patch_embed.proj.weight.is_contiguous()


def test_states_and_weights_of_what_lies_channels_last_are_read_again(tmp_path):
    torch.manual_seed(0)
    model, image_BCHW = a_resnet().to(memory_format=torch.channels_last), torch.randn(2, 3, 32, 32)
    optimizer = adamw_by_layer(model, layer_decay=1.0, weight_decay=0.05)
    config, head = FinetuneConfig(smoothing=0.0), TaskHead()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    train_step(model, optimizer, head, image_BCHW, torch.tensor([0, 1]), config, None)
    again, other = a_resnet(), a_resnet().to(memory_format=torch.channels_last)
    with process_group():
        with Checkpoints(tmp_path, 1, asynchronous=False) as checkpoints:
            checkpoints.save(1, model, None, optimizer)
        for fresh in (again, other):
            moments = adamw_by_layer(fresh, layer_decay=1.0, weight_decay=0.05)
            assert restore(tmp_path, fresh, None, moments) == 1
            theirs = moments.state[fresh.layer2[0].conv1.weight]["exp_avg"]
            assert theirs.equal(optimizer.state[model.layer2[0].conv1.weight]["exp_avg"])
    save_sealed(model.state_dict(), tmp_path / "resnet.safetensors")
    read = load_file(tmp_path / "resnet.safetensors")
    for name, value in model.state_dict().items():
        assert value.equal(read[name])
        assert value.equal(again.state_dict()[name])
        assert value.equal(other.state_dict()[name])


@pytest.mark.slow
def test_whole_batches_train_by_one_graph_and_to_the_same_weights(tmp_path, monkeypatch):
    two_colours(tmp_path / "colours")  # 60 images to train, of which one is damaged
    plain = replace(config_of(tmp_path), epochs=2, drop_path=0.0, name="plain")
    compiled = replace(plain, compile=True, name="compiled")
    # torch's own kernels: what is traced, and how often, stays the same
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    for config in (plain, compiled):
        finetune(config)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("plain", "compiled")]
    assert logs[0] == logs[1]
