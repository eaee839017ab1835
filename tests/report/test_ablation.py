"""Which row of Table 2 a method is, is read from the configuration of its pre-training."""

from dataclasses import asdict
from pathlib import Path

import pytest

from maskedclip.config import flat, override, save
from maskedclip.recipes import clip, demo, mae_clip, maskedclip_vitl
from maskedclip.report.ablation import ablation, absent, components_of, differences, table_2
from maskedclip.report.pages.tables import table
from tests.report.pages.test_tables import PAPER, result


def config(bridge_depth: int, mfd: float, **changes: float) -> dict:
    fields = {"model.bridge_depth": bridge_depth, "loss.mfd": mfd}
    more = {name.replace("_", ".", 1): value for name, value in changes.items()}
    return asdict(override(maskedclip_vitl(), fields | more))


def test_parts_are_those_of_the_configuration() -> None:
    assert components_of(config(0, 0.0)) == (False, False)
    assert components_of(config(4, 0.0)) == (True, False)
    assert components_of(asdict(demo())) == (True, True)


def test_what_lacks_an_objective_is_no_ablation() -> None:
    assert components_of(config(4, 0.0, loss_clip=0.0)) is None  # masked images alone
    assert components_of(asdict(clip())) is None
    assert components_of(config(0, 0.01)) is None  # the paper has no such row
    assert components_of({"weights": "random"}) is None


def test_rows_stand_in_the_papers_order_whatever_they_are_called() -> None:
    methods = ("MaskedCLIP", "z", "a", "RETFound")
    runs = [result(name, "idrid", 0.8, fraction=share) for name in methods for share in (0.1, 1)]
    parts = {"MaskedCLIP": components_of(config(0, 0.0)), "z": components_of(config(4, 0.01))}
    parts |= {"a": components_of(config(4, 0.0))}
    found = table_2(table(runs, PAPER), parts)
    assert [block.name for block in found.blocks] == ["10 %"]
    assert [(line.label, line.method, line.checks) for line in found.blocks[0].lines] == [
        ("MAE+CLIP", "MaskedCLIP", (False, False)),
        ("+Bridge Transformer", "a", (True, False)),
        ("MaskedCLIP", "z", (True, True)),
    ]


def test_two_methods_of_one_row_are_told_apart() -> None:
    runs = [result(name, "idrid", 0.8) for name in ("small", "large")]
    parts = dict.fromkeys(("small", "large"), components_of(config(4, 0.01)))
    lines = table_2(table(runs, PAPER), parts).blocks[0].lines
    assert [line.label for line in lines] == ["MaskedCLIP (small)", "MaskedCLIP (large)"]
    assert absent(parts) == ["MAE+CLIP", "+Bridge Transformer"]


def test_other_differences_between_the_pretrainings_are_named() -> None:
    configs = {"a": flat(config(0, 0.0)), "b": flat(config(4, 0.01, optim_epochs=100.0))}
    assert differences(configs) == ["optim.epochs"]


@pytest.mark.parametrize(
    ("unlike", "rows", "said"),
    [
        ({}, ["MAE+CLIP"], []),
        ({"optim.steps": 9}, [], ["m: its runs start from 2 pre-trainings that differ in "]),
        ({"loss.mfd": 0.5}, [], ["m: its runs start from 2 pre-trainings that differ in "]),
    ],
)
def test_pretrainings_of_a_method_are_one_row_if_they_differ_in_their_seed_alone(
    unlike: dict[str, float], rows: list[str], said: list[str], tmp_path: Path
) -> None:
    runs = []
    for seed in (1, 0):
        directory = tmp_path / f"seed{seed}"
        directory.mkdir()
        own = override(mae_clip(), {"name": f"run{seed}", "seed": seed} | (unlike if seed else {}))
        save(own, directory / "config.json")
        runs.append(result("m", "idrid", 0.8 + seed / 10, directory=directory, seed=seed))
    second, remarks = ablation(table(runs, PAPER))
    assert [line.label for block in second.blocks for line in block.lines] == rows
    assert [line for line in remarks if line.startswith("m:")] == [
        f"{line}{', '.join(unlike)}; left out." for line in said
    ]
