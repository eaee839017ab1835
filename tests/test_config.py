import re

import pytest

from maskedclip.config import (
    Config,
    FinetuneConfig,
    check_divisible,
    field_names,
    load,
    override,
    save,
)
from maskedclip.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_loaded_is_what_was_saved(name, tmp_path):
    config = RECIPES[name]()
    save(config, tmp_path / "config.json")
    assert load(tmp_path / "config.json", Config) == config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_like_its_function(name):
    assert RECIPES[name]().name == name


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.base_lr", "1e-4", 1e-4),
        ("optim.steps", "1e3", 1000),
        ("optim.clip_norm", "1", 1.0),
        ("optim.clip_norm", "None", None),
        ("optim.betas", "0.9,0.99", (0.9, 0.99)),
        ("optim.betas", "(0.9, 0.99)", (0.9, 0.99)),
        ("data.paired", "a,b", ("a", "b")),
        ("data.paired", "[a,b]", ("a", "b")),
        ("data.paired", "shards/My Eyes (copy)", ("shards/My Eyes (copy)",)),
        ("data.paired", "(new) eyes,eyes (old)", ("(new) eyes", "eyes (old)")),
        ("data.paired", "a", ("a",)),
        ("data.paired", "", ()),
        ("loss.normalise_pixels", "false", False),
        ("model.size", "tiny", "tiny"),
        ("name", "1e5", "1e5"),
    ],
)
def test_text_from_a_command_line_becomes_what_the_field_holds(path, text, value):
    config = override(Config(), {path: text})
    for part in path.split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("optim.base_lrr", "1", "did you mean optim.base_lr"),
        ("base_lr", "1", "did you mean optim.base_lr"),
        ("optim", "1", "no field"),
        ("name.x", "1", "no field"),
        ("optim.steps", "1.5", "not a whole number"),
        ("optim.steps", "many", "not a whole number"),
        ("optim.base_lr", "fast", "not a number"),
        ("optim.base_lr", "nan", "not a number"),
        ("optim.betas", "0.9", "not a list"),
        ("loss.normalise_pixels", "maybe", "not true or false"),
        ("model.size", "tny", "did you mean tiny"),
        ("model.image_size", "100", "not a multiple of model.patch_size 16; try 96"),
        ("model.patch_size", "15", "not a multiple of model.patch_size 15; try 210"),
        ("data.crop_area", "1,0.2", "0 < low <= high <= 1"),
        ("optim.warmup_epochs", "300", "not below"),
        ("name", "../x", "plain folder name"),
    ],
)
def test_a_wrong_field_or_value_is_said_in_one_line(path, text, words):
    with pytest.raises(ValueError, match=r"[a-z]") as error:
        override(Config(), {path: text})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_fields_that_depend_on_each_other_may_change_together():
    config = override(Config(), {"model.image_size": 33, "model.patch_size": 11})
    assert config.model.image_size == 33


def test_the_peak_learning_rate_is_given_per_256_images_unless_absolute():
    assert Config().peak_lr == pytest.approx(1.5e-4 * 1440 / 256)
    assert override(Config(), {"optim.lr": 1e-3}).peak_lr == 1e-3


def test_every_field_has_a_name_of_its_own():
    for config in (Config(), FinetuneConfig()):
        assert len(set(field_names(config))) == len(field_names(config))


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    check_divisible((12, 0), 4, 3)
    with pytest.raises(ValueError, match=r"size 10 is not divisible by world size 4; .* as 12"):
        check_divisible((12, 10), 4, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.paired": "a,b", "data.paired_weights": "1"}, "1 for 2 datasets of data.paired"),
        ({"data.paired_weights": "1"}, "1 for 0 datasets"),
        ({"data.unpaired": "a,b", "data.unpaired_weights": "1,-2"}, "1,-2: one is negative"),
        ({"data.paired": "a,b", "data.paired_weights": "0,0"}, "none is above 0"),
        ({"data.paired": "a,b", "data.paired_weights": "1,1e-4"}, "below a thousandth"),
        ({"data.window": "-1"}, "data.window -1 is negative"),
        ({"data.max_lost": "2"}, "data.max_lost 2.0: write a share"),
        ({"data.caption_template": "an eye"}, "has no [CLS]"),
    ],
)
def test_a_mixture_or_budget_that_cannot_be_is_said_in_one_line(changes, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        override(Config(), changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"optim.steps": -5}, {"optim.base_lr": -1.0}, {"optim.lr": -1e-4}, {"seed": -1},
        {"optim.weight_decay": -0.1}, {"optim.clip_norm": -1.0}, {"optim.warmup_epochs": -1},
    ],
)  # fmt: skip
def test_a_negative_length_rate_or_seed_is_refused(change):
    with pytest.raises(ValueError, match="is negative; use 0 or more"):
        override(Config(), change)


@pytest.mark.parametrize("change", [{"lr": -1e-4}, {"min_lr": -1e-6}, {"seed": -1}])
def test_a_negative_rate_or_seed_of_a_fine_tuning_is_refused(change):
    with pytest.raises(ValueError, match="is negative; use 0 or more"):
        override(FinetuneConfig(), change)


@pytest.mark.parametrize("name", ["log_every", "save_every", "keep"])
def test_a_run_that_would_keep_no_checkpoint_or_write_none_is_refused(name):
    with pytest.raises(ValueError, match=rf"engine\.{name} 0: use 1 or more"):
        override(Config(), {f"engine.{name}": 0})


@pytest.mark.parametrize("name", ["spike", "hang_minutes", "pictures_every"])
def test_a_negative_watch_of_a_run_is_refused(name):
    with pytest.raises(ValueError, match=rf"engine\.{name} -1.* is negative"):
        override(Config(), {f"engine.{name}": -1})
