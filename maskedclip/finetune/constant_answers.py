"""The answers that are the same for all images: where a fine-tuning begins, and must not end."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from maskedclip.config import FinetuneConfig
from maskedclip.engine.step_log import rows_until
from maskedclip.finetune.run_directory import Labels

# of their loss. Seen with rare labels: 0.950 of a frozen encoder (validation AUROC 74.5), 0.992 of
# a whole one at 5e-5 (69), 0.993 at 5e-4 (61)
_ALIKE = 0.99


def start_at_frequencies(head: nn.Module, labels: Labels, config: FinetuneConfig) -> None:
    """Have a fresh head of several labels an image begin at their frequencies, and not at 1/2.

    Where labels are rare, the first gradients of all images are alike; at rates that suit an
    encoder they are met by its features sooner than by the bias, and the features become the same
    for all images (docs/lab_notes.md, 2026-12-01). Published recipes have classes, and begin at 0.
    """
    if labels.head.kind == "labels":
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.bias.copy_(_frequent_logits(_targets(labels), config))


def learnt_nothing(run: Path, labels: Labels, config: FinetuneConfig) -> str:
    """Return words that say, beside its scores, that a run's last loss is that of constant answers.

    "" where it is lower, or the row of the last epoch is lost.
    """
    _, last = rows_until(run, 0)
    if last is None or last["epoch"] < config.epochs:
        return ""
    constant = constant_loss(labels, config)
    if last["loss"] < _ALIKE * constant:
        return ""
    return (
        f"the training loss ended at {last['loss']:.3f}, constant answers have {constant:.3f}: "
        f"hardly anything was learnt"
    )


def constant_loss(labels: Labels, config: FinetuneConfig) -> float:
    """Return the mean training loss of the best answer that is the same for all images.

    Mixed images leave the mean target as it is; `balance` makes the classes equally frequent.
    """
    head, target = labels.head, _targets(labels)
    if head.kind == "number":  # standardised, so that the mean is 0
        return head.loss(torch.zeros_like(target), target, config.smoothing).item()
    if head.kind == "labels":
        logit_BY = _frequent_logits(target, config).expand_as(target)
        return head.loss(logit_BY, target, config.smoothing).item()
    count_Y = torch.bincount(target, minlength=len(labels.task.classes)).double()
    if config.balance != "none":
        count_Y = (count_Y > 0).double()
    share_Y = _smoothed(count_Y / count_Y.sum(), config.smoothing, len(count_Y))
    return math.fsum(-share * math.log(share) for share in share_Y.tolist() if share)


def _targets(labels: Labels) -> Tensor:
    answers = labels.task.answers(labels.parts["train"])
    return labels.head.targets(answers, torch.device("cpu"))


def _frequent_logits(target_BY: Tensor, config: FinetuneConfig) -> Tensor:
    share_Y = _smoothed(target_BY.mean(dim=0), config.smoothing, 2)
    return share_Y.logit(eps=1e-4)  # of a label that no image has, or every one, not infinite


def _smoothed(share_Y: Tensor, smoothing: float, answers: int) -> Tensor:
    return share_Y * (1 - smoothing) + smoothing / answers
