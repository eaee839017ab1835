"""Attention by one kernel over sequences of several lengths: all but the kernel, which is a GPU's.

In its place torch's own operator gets a kernel for processors here, written down by hand, so that
what is called, with what, and how gradients come back is what a GPU would run.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from maskedclip.models.blocks import Block, Group, attend_by, run, starts
from maskedclip.models.encoder import Encoder

BF16, HOPPER, CPU = torch.bfloat16, (9, 0), torch.device("cpu")


def by_hand(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, start_S: Tensor, slope_THD: Tensor | None
) -> list[Tensor]:
    """Return softmax(query key^T / sqrt(D)) value of each sequence, or the gradients of the three.

    slope_THD is the gradient of the former.
    """
    scale = query_THD.shape[-1] ** -0.5
    results: list[list[Tensor]] = []
    for first, end in zip(start_S[:-1].tolist(), start_S[1:].tolist(), strict=True):
        query, key, value = (x[first:end].transpose(0, 1) for x in (query_THD, key_THD, value_THD))
        share = (scale * query @ key.mT).softmax(dim=-1)
        if slope_THD is None:
            found = [share @ value]
        else:
            slope = slope_THD[first:end].transpose(0, 1)
            of_share = slope @ value.mT
            of_score = scale * share * (of_share - (of_share * share).sum(dim=-1, keepdim=True))
            found = [of_score @ key, of_score.mT @ query, share.mT @ slope]
        results.append([x.transpose(0, 1) for x in found])
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


CALLS: list[tuple[Tensor, Tensor, Tensor, Tensor, int]] = []


@pytest.fixture
def kernel_of_processors():
    """Give the operators of torch.nn.attention.varlen kernels for the CPU."""
    CALLS.clear()

    def forward(*given):
        query, key, value, starts_q, starts_k, max_q, max_k, causal = given[:8]
        assert starts_q.equal(starts_k)
        assert max_q == max_k
        assert causal is False
        CALLS.append((query, key, value, starts_q, max_q))
        (out,) = by_hand(query, key, value, starts_q, None)
        rng_state = torch.zeros(2, dtype=torch.uint64)
        return out, torch.zeros(query.shape[1], len(query)), rng_state

    def backward(*given):
        slope, query, key, value, _out, _lse, starts_q = given[:7]
        return tuple(by_hand(query, key, value, starts_q, slope))

    operators = torch.library.Library("torch_attn", "IMPL")
    operators.impl("_varlen_attn", forward, "CPU")
    operators.impl("_varlen_attn_backward", backward, "CPU")
    yield
    operators._destroy()


def test_starts_are_of_each_sequence_and_the_end_of_the_last():
    start_S = starts((Group(3, 5), Group(2, 7)), CPU)
    assert start_S.dtype == torch.int32
    assert start_S.tolist() == [0, 5, 10, 15, 22, 29]


def grads(blocks: torch.nn.ModuleList, x_TD: Tensor, groups: tuple[Group, ...]) -> list[Tensor]:
    blocks.zero_grad()
    leaf_TD = x_TD.clone().requires_grad_()
    angle_TC = x_TD[:, :8].cos() if blocks[0].attn.rotary else None
    out_TD = run(blocks, leaf_TD, groups, angle_TC=angle_TC)
    out_TD.backward(x_TD.sin())
    return [out_TD, leaf_TD.grad, *(parameter.grad.clone() for parameter in blocks.parameters())]


@pytest.mark.usefixtures("kernel_of_processors")
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("groups", [(Group(4, 6),), (Group(3, 5), Group(2, 9))])
def test_one_kernel_gives_the_values_and_gradients_of_attention_by_group(groups, rotary):
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(width=32, heads=2, rotary=rotary) for _ in range(2))
    x_TD = torch.randn(sum(group.tokens for group in groups), 32)
    expected = grads(blocks, x_TD, groups)
    assert not CALLS
    attend_by("varlen", [blocks], BF16, HOPPER)
    found = grads(blocks, x_TD, groups)
    assert len(CALLS) == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("kernel_of_processors")
def test_the_kernel_gets_views_of_one_tensor_whose_rows_are_contiguous():
    blocks = torch.nn.ModuleList([Block(width=32, heads=2)])
    attend_by("varlen", [blocks], BF16, HOPPER)
    run(blocks, torch.randn(33, 32), (Group(3, 5), Group(2, 9)))
    ((query, key, value, start_S, longest),) = CALLS
    for place, part in enumerate((query, key, value)):
        assert part.shape == (33, 2, 16)
        assert part.stride() == (96, 16, 1)
        assert part.storage_offset() == 32 * place
        assert part.untyped_storage().data_ptr() == query.untyped_storage().data_ptr()
    assert (start_S.tolist(), longest) == ([0, 5, 10, 15, 24, 33], 9)


@pytest.mark.usefixtures("kernel_of_processors")
def test_the_encoder_s_masked_and_whole_tokens_pass_one_kernel_a_block():
    torch.manual_seed(0)
    encoder = Encoder(image_size=32, patch_size=16, width=32, depth=3, heads=2)
    image_BCHW, visible_BV = torch.randn(3, 3, 32, 32), torch.tensor([[0], [2], [3]])
    with torch.no_grad():
        expected = encoder(image_BCHW, visible_BV, 2)
        attend_by("varlen", [encoder], BF16, HOPPER)
        found = encoder(image_BCHW, visible_BV, 2)
    assert len(CALLS) == 3
    assert CALLS[0][3].tolist() == [0, 2, 4, 6, 11, 16]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.usefixtures("kernel_of_processors")
@pytest.mark.parametrize("rotary", [False, True])
def test_compiled_blocks_attend_by_one_kernel_in_one_graph(rotary):
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(width=32, heads=2, rotary=rotary) for _ in range(2))
    attend_by("varlen", [blocks], BF16, HOPPER)
    groups = (Group(3, 5), Group(2, 9))
    x_TD = torch.randn(33, 32)
    expected = grads(blocks, x_TD, groups)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for block in blocks:
        block.forward = torch.compile(
            block.forward, dynamic=False, fullgraph=True, backend="aot_eager"
        )
    found = grads(blocks, x_TD, groups)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kernel", ["cudnn", "varlen"])
@pytest.mark.parametrize(
    ("compute", "capability", "where"),
    [
        (BF16, (0, 0), "CPU in bfloat16"),
        (BF16, (7, 5), "a card of capability 7.5 in bfloat16"),
        (torch.float32, HOPPER, "a card of capability 9.0 in float32"),
    ],
)
def test_kernels_of_newer_cards_are_refused_elsewhere(kernel, compute, capability, where):
    with pytest.raises(ValueError, match=f"engine.attention {kernel} on {where}: it needs a card"):
        attend_by(kernel, [Block(width=8, heads=1)], compute, capability)
    attend_by("sdpa", [Block(width=8, heads=1)], compute, capability)


def test_cudnn_s_kernel_comes_first_and_the_order_is_put_back():
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList([Block(width=32, heads=2)])
    groups, x_TD = (Group(3, 5), Group(2, 9)), torch.randn(33, 32)
    expected, before = grads(blocks, x_TD, groups), torch._C._get_sdp_priority_order()
    attend_by("cudnn", [blocks], BF16, HOPPER)
    found = grads(blocks, x_TD, groups)  # a processor has one of these kernels, and takes it
    assert torch._C._get_sdp_priority_order() == before
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_torch_has_the_operator_with_the_arguments_that_are_given():
    names = list(varlen.varlen_attn.__code__.co_varnames)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
