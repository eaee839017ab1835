"""At what pace the parts of a network learn, as a run's configuration has it."""

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from maskedclip.config import Config, OptimConfig
from maskedclip.engine.optimizer import Pace, layer_scale, set_rates
from maskedclip.pretrain.methods.protocol import At


def pace_of(model: nn.Module, config: Config) -> Callable[[str], Pace] | None:
    """Return what gives a parameter's pace by its name; None where all learn alike."""
    optim = config.optim
    frozen = {"encoder.": optim.freeze_encoder_epochs, "text.bert.": optim.freeze_text_epochs}
    if config.layer_decay == 1 and not any(frozen.values()):
        return None
    scale = layer_scale((name for name, _ in model.named_parameters()), config.layer_decay)

    def pace(name: str) -> Pace:
        epochs = (epochs for part, epochs in frozen.items() if name.startswith(part))
        return Pace(scale(name), next(epochs, 0.0))

    return pace


def set_rates_at(optimizer: Optimizer, at: At, optim: OptimConfig) -> None:
    """Set the learning rates of a step."""
    epoch = at.step / at.total * optim.epochs
    set_rates(optimizer, at.lr, epoch=epoch, warmup_epochs=optim.warmup_epochs)


def check_frozen(config: Config, *, has_text: bool) -> None:
    """Raise ValueError where a run freezes what it has not, or longer than it lasts."""
    optim = config.optim
    if optim.freeze_text_epochs and not has_text:
        raise ValueError(
            f"optim.freeze_text_epochs {optim.freeze_text_epochs:g}: this run has no text tower; "
            f"leave it out"
        )
    for name in ("freeze_encoder_epochs", "freeze_text_epochs"):
        if getattr(optim, name) >= optim.epochs:
            raise ValueError(
                f"optim.{name} {getattr(optim, name):g} is not below optim.epochs "
                f"{optim.epochs:g}: it would never learn; use fewer"
            )
