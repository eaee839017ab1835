"""Reference curves: drawn beside runs of their recipe, and of no other."""

import json
from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.config import override
from maskedclip.engine.event_files import event_files
from maskedclip.pretrain.reference import CURVES, FOLDER, reference_of, show_reference
from maskedclip.recipes import RECIPES, maskedclip_laptop


def test_a_curve_belongs_to_a_recipe_whatever_the_seed_and_the_place_of_its_shards() -> None:
    paths = sorted(CURVES.glob("*.jsonl"))
    assert paths
    for path in paths:
        same = {"seed": 3, "name": "mine", "engine.log_every": 7, "log.health_every": 0}
        assert reference_of(override(RECIPES[path.stem](), same)) == path
        assert reference_of(override(RECIPES[path.stem](), {"optim.base_lr": 0.5})) is None
    moved = {"data.paired": ("/elsewhere/odir5k",), "data.unpaired": ("/elsewhere/odir5k",)}
    assert reference_of(override(maskedclip_laptop(), moved)) is not None


def test_it_is_drawn_once_beside_the_run_unless_it_is_not_wanted(tmp_path: Path) -> None:
    config = override(maskedclip_laptop(), {"out": str(tmp_path)})
    show_reference(override(config, {"log.reference": False}))
    assert not (config.directory / FOLDER).exists()
    show_reference(config)
    show_reference(config)
    assert len(event_files(config.directory / FOLDER)) == 1
    events = EventAccumulator(str(config.directory / FOLDER), {"tensors": 0}).Reload()
    rows = [json.loads(x) for x in (CURVES / "maskedclip_laptop.jsonl").read_text().splitlines()]
    drawn = [event.step for event in events.Tensors("losses/loss_clip")]
    assert drawn == [row["step"] for row in rows]
