"""AdamW over two groups: matrices decay, vectors (biases, norms, tau) do not."""

from torch import nn
from torch.optim import AdamW


def adamw(model: nn.Module, *, betas: tuple[float, float], weight_decay: float) -> AdamW:
    """Return fused AdamW; the learning rate is set at each step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0, betas=betas, fused=True)
