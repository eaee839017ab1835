"""The measured curve of a recipe, drawn beside the run of one who follows that recipe."""

import json
import logging
from pathlib import Path

from maskedclip.config import Config, override
from maskedclip.engine.event_files import EventFile, event_files
from maskedclip.pretrain.run_identity import learnt
from maskedclip.recipes import RECIPES

logger = logging.getLogger(__name__)
CURVES = Path(__file__).parent / "reference_curves"  # RECIPE.jsonl: rows as in metrics.jsonl
FOLDER = "reference"  # in the run's directory: TensorBoard calls it NAME/reference


def reference_of(config: Config) -> Path | None:
    """Return the curve of the recipe that this run follows in all that decides what is learnt.

    But for the seed; None where there is none.
    """
    for path in sorted(CURVES.glob("*.jsonl")):
        recipe = override(RECIPES[path.stem](), {"seed": config.seed})
        if learnt(recipe) == learnt(config):
            return path
    return None


def show_reference(config: Config) -> None:
    """Draw the reference curve of the run into a folder of its own, once, unless told not to."""
    path, folder = reference_of(config), config.directory / FOLDER
    if not config.log.reference or path is None or event_files(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        events = EventFile(folder, 0, finetuning=False)
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            events.point(row["step"], row)
        events.close()
    except OSError as error:
        logger.warning("%s: the reference curve is not drawn (%s)", folder, error.strerror)
        return
    logger.info(
        "TensorBoard shows the measured curve of %s as %s/reference", path.stem, config.name
    )
