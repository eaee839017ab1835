"""A directory belongs to one run: another is refused with the fields that differ and a way on."""

import shlex
from pathlib import Path

import pytest

from maskedclip.command import read_config
from maskedclip.config import Config, LaunchConfig, override, save
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.preflight import prepare
from maskedclip.pretrain.run_identity import command_of, learnt, refuse_another
from maskedclip.recipes import RECIPES


def refused(config: Config) -> str:
    with pytest.raises(ValueError, match="holds a run with") as found:
        refuse_another(config)
    assert "\n" not in str(found.value)
    assert "remove" not in str(found.value)
    return str(found.value)


@pytest.fixture
def begun(small: Config) -> Config:
    small.directory.mkdir(parents=True)
    save(small, small.directory / "config.json")
    return small


def test_each_field_that_differs_is_named_with_both_values_and_two_ways_on(begun: Config):
    said = refused(override(begun, {"data.window": 512, "model.mask_ratio": 0.5}))
    assert "data.window 0, now 512; model.mask_ratio 0.75, now 0.5" in said
    assert "use another --name, and --init_from=" in said


def test_of_many_fields_the_first_are_named(begun: Config):
    changes = {"seed": 7, "data.window": 8, "model.mask_ratio": 0.5, "model.projection": 8}
    said = refused(override(begun, changes | {"loss.mfd": 0.5, "optim.base_lr": 1.0}))
    assert "seed 0, now 7" in said
    assert "and 2 more fields" in said


def test_the_launcher_refuses_it_before_anything_is_queued(begun: Config):
    with pytest.raises(ValueError, match=r"data\.window 0, now 8"):
        prepare(override(begun, {"data.window": 8}))


def command_after(said: str) -> list[str]:
    return shlex.split(said[said.index("python -m maskedclip.pretrain") :])


def test_a_finished_run_that_is_to_be_longer_is_given_the_command_that_goes_on_from_its_weights(
    small: Config,
):
    config = override(small, {"name": "it's mine", "optim.steps": 4})
    run = pretrain(config)
    said = refused(override(config, {"optim.steps": 6}))
    assert "optim.steps 4, now 6" in said
    words = command_after(said)
    assert words[:3] == ["python", "-m", "maskedclip.pretrain"]
    longer = read_config("", None, "demo", words[3:]).config
    assert (longer.init_from, longer.optim.steps) == (str(run), 2)
    assert longer.name == "it's mine-6steps"
    assert {k for k, v in learnt(longer).items() if v != learnt(config)[k]} == {
        "init_from", "optim.steps"
    }  # fmt: skip
    assert (pretrain(longer) / "model.safetensors").is_file()


def test_a_run_given_in_epochs_is_continued_by_the_rest_of_them(begun: Config):
    before = override(begun, {"optim.steps": 0, "optim.epochs": 10.0, "optim.warmup_epochs": 2.0})
    save(before, before.directory / "config.json")
    said = refused(override(before, {"optim.epochs": 15.0}))
    assert "let it end as it was begun" in said  # it has no weights yet
    longer = read_config("", None, "demo", command_after(said)[3:]).config
    assert (longer.optim.epochs, longer.optim.warmup_epochs) == (5.0, 1.0)
    assert longer.name == f"{begun.name}-15epochs"


def test_a_shorter_run_is_another_one(begun: Config):
    assert "use another --name" in refused(override(begun, {"optim.steps": 1}))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_command_begins_the_configuration_that_it_was_made_of(recipe: str, tmp_path: Path):
    changes = {
        "name": "a run", "out": str(tmp_path / "my runs"), "data.paired": ("a b", "c"),
        "optim.clip_norm": 0.25, "optim.base_lr": 1.5e-5, "engine.compile": True,
        "data.crop_area": (0.25, 1.0),
    }  # fmt: skip
    config = override(RECIPES[recipe](), changes)
    assert read_config("", None, "demo", shlex.split(command_of(config))[3:]).config == config


def test_a_run_that_was_launched_is_continued_by_its_launcher(begun: Config):
    jobs = begun.directory / "jobs"
    jobs.mkdir()
    launch = LaunchConfig(gpus=2, cluster="slurm", setup=("export A=1,2",), hours=3)
    save(launch, jobs / "launch.json")
    words = shlex.split(command_of(override(begun, {"init_from": str(begun.directory)})))
    assert words[:2] == ["python", "launchers/submit_pretrain.py"]
    given = read_config("", LaunchConfig(), "demo", words[2:])
    assert given.options == launch
