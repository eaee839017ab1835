"""The table of cards."""

import pytest

from maskedclip.engine.gpu_specs import GPUS, bf16_peak, find_gpu


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100-80"),
        ("NVIDIA H100 PCIe", "h100pcie-80"),
        ("NVIDIA H100 NVL", "h100nvl-94"),
        ("NVIDIA L4", "l4-24"),
        ("NVIDIA L40S", "l40s-48"),
        ("NVIDIA A10", "a10-24"),
        ("NVIDIA GeForce RTX 4090", "rtx4090-24"),
    ],
)
def test_the_peak_of_a_device_is_that_of_its_card(name, card):
    assert bf16_peak(name) == GPUS[card].bf16_flops


@pytest.mark.parametrize(
    "name",
    ["Tesla V100-SXM2-32GB", "NVIDIA A10G", "NVIDIA Thor", "NVIDIA A100-SXM4-40GB MIG 3g.20gb"],
)
def test_a_device_without_a_known_bf16_peak_has_none(name):
    assert bf16_peak(name) is None


def test_a_name_that_is_not_known_gives_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean h100-80\?"):
        find_gpu("h100_80")
    assert find_gpu("A100-80") is GPUS["a100-80"]
