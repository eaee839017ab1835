"""Whether a run is healthy: its weights, its terms, its features, its contrast and its teacher.

Measured after a step that is logged, on its batch and with the weights that it left: nothing of it
changes what is learnt, and the host waits for the device here alone. Every rank takes part; the
numbers are those of all ranks together. engine/curves.py says what each of them is.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from maskedclip.data.stream import Batch
from maskedclip.engine.distributed import (
    local,
    mean_over_ranks,
    part_norms,
    parts_of,
    summed_over_shards,
)
from maskedclip.losses import label_guided_clip_loss, sigmoid_clip_loss
from maskedclip.losses.gathering import of_all_ranks
from maskedclip.pretrain.due import Looks
from maskedclip.pretrain.methods.protocol import At, Measured, Method, Seen
from maskedclip.pretrain.probe import OnlineProbe
from maskedclip.pretrain.sources import to_device

_IMAGES = 512  # of a step, over all ranks, whose features are taken
_PATCHES = 8  # of an image, evenly spread, of which the teacher's rank is taken
_GROUPS = 4  # of consecutive blocks


def health(
    method: Method,
    batch: Batch,
    at: At,
    device: torch.device,
    looks: Looks,
    probe: OnlineProbe | None = None,
) -> dict[str, float]:
    """Return what is measured after a step on its batch.

    What each costs of a step is measured in docs/monitoring.md.
    """
    found: dict[str, Tensor] = {}
    scores: dict[str, float] = {}
    method.optimizer.zero_grad()  # the step has used them: they would lie beside what is measured
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if looks.features:
            found |= update_ratios(method.model, method.optimizer)
            if method.teacher is not None:
                found["teacher_drift"] = drift(method.teacher, method.model)
            if isinstance(method, Measured):
                # of shapes that training has not: compiled blocks would be compiled anew
                with torch.compiler.set_stance("force_eager"), torch.no_grad():
                    seen = method.look(
                        to_device(batch, device), max(1, _IMAGES // dist.get_world_size())
                    )
                    found |= of_features(seen) | of_contrast(seen) | of_teacher(seen)
        if looks.shares and isinstance(method, Measured):
            found |= gradient_shares(method, method.model, to_device(batch, device), at)
        if looks.probe and probe is not None and isinstance(method, Measured):
            with torch.compiler.set_stance("force_eager"):
                scores = probe.scores(method)
    if not found:
        return scores
    numbers = torch.stack([value.double().reshape(()) for value in found.values()]).tolist()
    measured = dict(zip(found, numbers, strict=True))
    return {name: value for name, value in measured.items() if math.isfinite(value)} | scores


@torch.no_grad()
def update_ratios(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return |change by the last step| / |weights| of each part, from AdamW's averages.

    No copy of the weights is kept for it.
    """
    assert isinstance(optimizer, AdamW)
    squares: dict[Tensor, Tensor] = {}
    for group in optimizer.param_groups:
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state:
                first, second = local(state["exp_avg"]), local(state["exp_avg_sq"])
                steps = state["step"]
                mean = first / (1 - beta1**steps)
                deviation = (second / (1 - beta2**steps)).sqrt() + group["eps"]
                change = lr * (mean / deviation + decay * local(parameter))
                squares[parameter] = change.float().square().sum()
    weights = parts_of(model, lambda parameter: parameter if parameter in squares else None)
    changes = parts_of(model, squares.get)
    sums = torch.stack([torch.stack(part).sum() for part in changes.values()])
    sums = summed_over_shards(sums, squares)
    norms = part_norms(weights)
    return {
        f"update_ratio/{part}": total.sqrt() / norms[part]
        for part, total in zip(changes, sums, strict=True)
    }


@torch.no_grad()
def drift(teacher: nn.Module, student: nn.Module) -> Tensor:
    """Return |teacher - student| / |student| over the weights that both have."""
    own = dict(student.named_parameters())
    pairs = [(ours, own[name]) for name, ours in teacher.named_parameters() if name in own]
    squares = [
        torch.stack([(local(ours) - local(theirs)).square().sum(), local(theirs).square().sum()])
        for ours, theirs in pairs
    ]
    sums = summed_over_shards(torch.stack(squares).sum(dim=0), [theirs for _, theirs in pairs])
    return (sums[0] / sums[1]).sqrt()


def of_features(seen: Seen) -> dict[str, Tensor]:
    """Return the rank of the encoder's features and how uniformly images lie on the sphere.

    Those of the joint space, where there is one.
    """
    image_AD = F.normalize(seen.mean_RD, dim=-1) if seen.image_AD is None else seen.image_AD
    return {"feature_rank": effective_rank(seen.mean_RD), "uniformity": uniformity(image_AD)}


def of_contrast(seen: Seen) -> dict[str, Tensor]:
    """Return how well images find their captions, and captions their images."""
    image_AD, text_AD, label_A = seen.image_AD, seen.text_AD, seen.label_A
    if image_AD is None or text_AD is None or label_A is None or seen.logit_scale is None:
        return {}
    all_label = of_all_ranks(label_A, None)

    def found(row_AD: Tensor, other_AD: Tensor) -> Tensor:
        nearest_A = (row_AD @ of_all_ranks(other_AD, None).T).argmax(dim=1)
        return (all_label[nearest_A] == label_A).float().mean()

    # eqs. 2-4 are a cross-entropy: no less than the entropy of their target
    floor = (label_A[:, None] == all_label).sum(dim=1).float().log().mean()
    loss = label_guided_clip_loss(image_AD, text_AD, label_A, seen.logit_scale)
    if seen.logit_bias is not None:  # of SigLIP each pair is told apart, without a floor
        loss = sigmoid_clip_loss(image_AD, text_AD, label_A, seen.logit_scale, seen.logit_bias)
        floor = torch.zeros_like(floor)
    return mean_over_ranks(
        {
            "loss_clip_excess": loss - floor,
            "retrieval_image_to_text": found(image_AD, text_AD),
            "retrieval_text_to_image": found(text_AD, image_AD),
            "alignment": (image_AD - text_AD).square().sum(dim=1).mean(),
        }
    )


def of_teacher(seen: Seen) -> dict[str, Tensor]:
    """Return how well D_F predicts the teacher's features, and whether these differ at all."""
    target_BND, feature_BND, hidden_BN = seen.target_BND, seen.feature_BND, seen.hidden_BN
    if target_BND is None:
        return {}
    unit_BND = F.normalize(target_BND.float(), dim=-1)
    mean_D = mean_over_rows(unit_BND.flatten(0, 1))
    patch_P = torch.linspace(0, target_BND.shape[1] - 1, _PATCHES).round().long().unique()
    some_BPD = target_BND[:, patch_P.to(target_BND.device)]
    found = {
        # the vector c of length 1 with the highest mean of c . t is their mean, normalised
        "target_cosine_constant": mean_D.norm(),
        "teacher_rank": effective_rank(some_BPD.flatten(0, 1)),
    }
    if feature_BND is None or hidden_BN is None:
        return found
    own_BND = F.normalize(feature_BND.float(), dim=-1)
    if own_BND.shape[1] < unit_BND.shape[1]:  # hidden ones alone, in their order
        index_BM = hidden_BN.int().argsort(dim=1, stable=True)[:, -own_BND.shape[1] :]
        chosen_BMD = unit_BND.gather(1, index_BM[:, :, None].expand_as(own_BND))
        return found | mean_over_ranks(
            {"target_cosine_hidden": (own_BND * chosen_BMD).sum(dim=-1).mean()}
        )
    cosine_BN, hidden = (own_BND * unit_BND).sum(dim=-1), hidden_BN.float()
    return found | mean_over_ranks(
        {
            "target_cosine_hidden": (cosine_BN * hidden).sum() / hidden.sum(),
            "target_cosine_visible": (cosine_BN * (1 - hidden)).sum() / (1 - hidden).sum(),
        }
    )


def gradient_shares(method: Measured, model: nn.Module, batch: Batch, at: At) -> dict[str, Tensor]:
    """Return |gradient of a term| over the sum of these, in each part that several terms reach."""
    of_terms: dict[str, dict[str, Tensor]] = {}
    for term in method.alone(batch, at):
        parts = shared_parts(model)
        of_terms[term] = part_norms(parts) if parts else {}
    found: dict[str, Tensor] = {}
    for part in dict.fromkeys(part for norms in of_terms.values() for part in norms):
        norms = {term: own[part] for term, own in of_terms.items() if part in own}
        total = torch.stack(list(norms.values())).sum()
        found |= {f"gradient_share/{term}/{part}": norm / total for term, norm in norms.items()}
    # a part that one term alone reaches says nothing: the share is 1
    values = torch.stack(list(found.values())).tolist() if found else []
    ones = {name.split("/", 2)[2] for name, share in zip(found, values, strict=True) if share >= 1}
    return {name: share for name, share in found.items() if name.split("/", 2)[2] not in ones}


def shared_parts(model: nn.Module) -> dict[str, list[Tensor]]:
    """Return the gradients of each module of a model, and of the encoder's blocks in groups."""
    parts = parts_of(model, lambda parameter: parameter.grad)
    encoder = dict(model.named_children())["encoder"]
    blocks = list(encoder.get_submodule("blocks").children())
    size = math.ceil(len(blocks) / _GROUPS)
    for first in range(0, len(blocks), size):
        group = blocks[first : first + size]
        numbers = f"{first}-{first + len(group) - 1}" if len(group) > 1 else f"{first}"
        parts[f"blocks {numbers}"] = [
            parameter.grad
            for block in group
            for parameter in block.parameters()
            if parameter.grad is not None
        ]
    return {name: gradients for name, gradients in parts.items() if gradients}


def effective_rank(row_RD: Tensor) -> Tensor:
    """Return exp of the entropy of the normalised singular values of all ranks' rows (RankMe).

    Garrido et al., 2023. In fp64, from the product of the columns, whose sum over ranks is that of
    one rank: it is 1 where all rows are equal.
    """
    row_RD = row_RD.double()
    gram_DD = row_RD.T @ row_RD
    dist.all_reduce(gram_DD)
    singular_D = torch.linalg.eigvalsh(gram_DD).clamp(min=0).sqrt()
    share_D = singular_D / singular_D.sum()
    return torch.special.entr(share_D).sum().exp()


def uniformity(unit_RD: Tensor, sharpness: float = 2.0) -> Tensor:
    """Return log mean exp(-sharpness |x - y|^2) over pairs of different rows of all ranks."""
    unit_RD = unit_RD.double()
    all_AD = of_all_ranks(unit_RD, None)
    squared_RA = 2 - 2 * unit_RD @ all_AD.T
    potential = (-sharpness * squared_RA).exp().sum() - len(unit_RD)  # less those with themselves
    mean = mean_over_ranks({"": potential / len(unit_RD) / max(1, len(all_AD) - 1)})[""]
    return mean.log()


def mean_over_rows(row_RD: Tensor) -> Tensor:
    """Return mean_D of the rows of all ranks, equally many on each."""
    mean_D = row_RD.mean(dim=0)
    dist.all_reduce(mean_D)
    return mean_D / dist.get_world_size()
