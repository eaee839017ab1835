"""Runs of one name are repeats where they differ in their seed alone; others have own rows."""

from pathlib import Path
from typing import Any

from maskedclip.config import Config, FinetuneConfig, override, save
from maskedclip.recipes import clip
from maskedclip.report.repeats import made_otherwise_apart
from maskedclip.report.result import Result
from tests.report.pages.test_tables import result


def run(
    folder: Path, seed: int, config: Config | FinetuneConfig | None = None, **facts: Any
) -> Result:
    folder.mkdir(parents=True)
    if config is not None:
        save(config, folder / "config.json")
    return result("clip", "idrid", 0.8, directory=folder, seed=seed, **facts)


def pretrained(folder: Path, seed: int, **changes: Any) -> Result:
    fields = {name.replace("_", ".", 1): value for name, value in changes.items()}
    return run(folder, seed, override(clip(), {"seed": seed, "out": str(folder.parent)} | fields))


def methods(results: list[Result]) -> list[str]:
    return [one.method for one in made_otherwise_apart(results)[0]]


def test_runs_of_other_seeds_folders_and_speeds_are_repeats(tmp_path: Path) -> None:
    runs = [
        pretrained(tmp_path / "a", 0, data_paired=("here/odir",), data_threads=4),
        pretrained(tmp_path / "b", 1, data_paired=("there/odir",), engine_precision="fp32"),
        run(tmp_path / "weights of others", 2),
    ]
    assert made_otherwise_apart(runs) == (runs, [])


def test_a_later_seed_of_another_network_is_not_averaged_with_the_first(tmp_path: Path) -> None:
    runs = [
        pretrained(tmp_path / "a", 3, model_size="tiny", optim_steps=10),
        pretrained(tmp_path / "b", 4, model_size="micro", optim_steps=12),
    ]
    apart, lines = made_otherwise_apart(runs)
    assert [one.method for one in apart] == [
        "clip, model.size=tiny, optim.steps=10", "clip, model.size=micro, optim.steps=12",
    ]  # fmt: skip
    assert lines == [
        "clip: its runs differ in model.size, optim.steps, not in their seed alone; they have rows "
        "of their own"
    ]


def test_runs_that_differ_in_more_fields_than_a_name_has_room_for_are_numbered(
    tmp_path: Path,
) -> None:
    same = {"model_size": "tiny", "optim_steps": 5, "data_window": 8}
    other = {"model_size": "micro", "optim_steps": 6, "data_window": 9}
    runs = [
        pretrained(tmp_path / "a", 0, **same, optim_weight_decay=0.1),
        pretrained(tmp_path / "b", 1, **same, optim_weight_decay=0.2),
        pretrained(tmp_path / "c", 2, **same, optim_weight_decay=0.2),
        pretrained(tmp_path / "d", 3, **other, optim_weight_decay=0.2),
    ]
    found = methods(runs)
    assert [name.rpartition(" (")[2] for name in found[:3]] == ["1 of 2)", "2 of 2)", "2 of 2)"]
    assert found[1] == found[2]
    assert len(set(found)) == 3


def test_fine_tunings_of_one_cell_with_other_epochs_stay_apart_and_those_of_other_cells_do_not(
    tmp_path: Path,
) -> None:
    def tuned(name: str, seed: int, epochs: int, **facts: Any) -> Result:
        config = FinetuneConfig(
            weights="nowhere", dataset=name, seed=seed, epochs=epochs, warmup_epochs=1
        )
        return run(tmp_path / name, seed, config, **facts)

    runs = [tuned("a", 0, 10), tuned("b", 1, 20), tuned("c", 0, 30, task="glaucoma")]
    assert methods(runs) == ["clip, epochs=10", "clip, epochs=20", "clip"]
