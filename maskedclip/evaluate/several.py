"""Several encoders, and ensembles of them, by the same protocols: each measured, then one table."""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskedclip.data.paper_tasks import chosen
from maskedclip.evaluate.features import FOLDER, Ensemble, FrozenEncoder
from maskedclip.evaluate.protocols import (
    evaluate_as_asked,
    run,
    unserved,
    usual_protocols,
)
from maskedclip.finetune.command import EvaluateConfig, encoders_of
from maskedclip.report.encoder_table import encoder_table

logger = logging.getLogger(__name__)
OUT = Path("runs") / "encoders"


def run_all(options: EvaluateConfig) -> list[dict[str, Any]]:
    """Evaluate what `weights` names; of several encoders print one table, too; return the rows.

    Of several each has its rows in OUT/NAME, and the table is OUT/NAME,NAME.md, .tex and .csv. A
    protocol that an encoder cannot serve, as zero-shot without a text tower, is left out of its
    rows, which is said.
    """
    names = encoders_of(options.weights)
    if len(names) == 1 and len(names[0]) == 1:
        return run(options)
    out = Path(options.out) if options.out else OUT
    encoders = [_encoder(members, options) for members in names]
    _refuse_equal_names(encoders)
    datasets, missing = chosen(options.datasets, options.task, Path(options.shards))
    for line in missing:
        sys.stderr.write(f"{line}\n")
    _check_sizes(encoders, options.image_size)
    options = replace(options, cache=options.cache or str(out / FOLDER))
    rows: list[dict[str, Any]] = []
    for encoder in encoders:
        protocols, own = _possible(encoder, options), out / encoder.name
        if protocols or options.shots:
            rows += evaluate_as_asked(encoder, datasets, protocols, own, options)
    folders = [out / encoder.name for encoder in encoders]
    table = encoder_table([path for path in folders if path.is_dir()], out)
    sys.stdout.write(f"{table.text}this table: {table.path}, .tex and .csv\n")
    return rows


def _check_sizes(encoders: Sequence[FrozenEncoder], asked: int) -> None:
    """Raise ValueError where a patch does not divide the size asked for; name one that all can see.

    Where none is asked for and the encoders' own differ, say so: the table compares both at once,
    encoders and sizes.
    """
    own = dict.fromkeys(sizes for encoder in encoders for sizes in encoder.own_sizes)
    step = math.lcm(*(patch for *_, patch in own))
    nearest = max(1, round((asked or min(size for _, size, _ in own)) / step)) * step
    wrong = [f"{patch} of {name}" for name, _, patch in own if asked % patch]
    if wrong:
        raise ValueError(
            f"--image_size={asked} is not a multiple of the patch {', '.join(wrong)}; use a "
            f"multiple of {step}, such as {nearest}, which all of these encoders can see"
        )
    if not asked and len({size for _, size, _ in own}) > 1:
        logger.warning(
            "images are seen as each encoder was trained: %s; --image_size=%d shows all of them "
            "the same", ", ".join(f"{name} {size} px" for name, size, _ in own), nearest,
        )  # fmt: skip


def _encoder(members: Sequence[str], options: EvaluateConfig) -> FrozenEncoder:
    each = [FrozenEncoder(one, options.size, options.image_size) for one in members]
    return each[0] if len(each) == 1 else Ensemble(each)


def _refuse_equal_names(encoders: Sequence[FrozenEncoder]) -> None:
    """Raise ValueError where two encoders have one name: their results would be the same rows."""
    by_name: dict[str, FrozenEncoder] = {}
    for encoder in encoders:
        other = by_name.setdefault(encoder.name, encoder)
        if other is not encoder:
            raise ValueError(
                f"{other.weights} and {encoder.weights} are both called {encoder.name} in tables; "
                f"give one file another name"
            )


def _possible(encoder: FrozenEncoder, options: EvaluateConfig) -> list[str]:
    """Return the protocols that an encoder can serve; what is left out is said."""
    asked = options.protocols or usual_protocols(encoder)
    reasons = unserved(encoder, asked)
    if reasons:
        words = "; ".join(f"{reason}, so no {name}" for name, reason in reasons.items())
        logger.warning("%s: %s", encoder.name, words)
    return [name for name in asked if name not in reasons]
