"""Gradients between two steps."""

import torch
from torch import nn

from maskedclip.engine.optimizer import adamw, forget_gradients


def test_on_a_cpu_gradients_are_forgotten_in_their_memory_and_unused_weights_get_none():
    model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.1)
    used, unused = model
    places, values = [], []
    for _ in range(2):
        forget_gradients(optimizer)
        used(torch.ones(1, 3)).sum().backward()
        places.append(used.weight.grad.data_ptr())
        values.append(used.weight.grad.clone())
    assert places[0] == places[1]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], torch.ones(2, 3))
    assert unused.weight.grad is None  # AdamW would let it decay
