"""What a finished run is measured beside: the weights it began from, on the same test images."""

import re
import shlex
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from maskedclip.command import read_config
from maskedclip.config import Config, override
from maskedclip.evaluate.protocols import evaluate
from maskedclip.explain import run_picture
from maskedclip.jobs.job import Job
from maskedclip.metrics.results import DAGGER, read_rows
from maskedclip.models.checkpoints import files
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.preflight import prepare
from maskedclip.recipes import maskedclip_vits_continue
from maskedclip.shards.make import ShardRequest, build
from maskedclip.weights.prefetch import PrefetchConfig, needs
from tests.kinds_of_tasks import write_ages
from tests.pretrain.test_dinov2 import shrunk


@pytest.fixture
def compared(small: Config, phantoms: dict[str, Path]) -> Config:
    """A run of 3 steps that is measured beside its start."""
    changes = {
        "after.datasets": (str(phantoms["heldout"]),), "after.beside_start": True,
        "after.protocols": ("logistic",), "optim.steps": 3,
    }  # fmt: skip
    return override(small, changes)


def measured(config: Config, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    run = pretrain(config)
    capsys.readouterr()
    Job(config).measure(run)
    return run, capsys.readouterr().out


def test_a_run_is_measured_beside_untrained_weights_and_one_that_goes_on_beside_its_start(
    compared: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    first, out = measured(compared, capsys)
    assert "logistic: AUROC" in out
    assert "against the untrained encoder, on the same 12 images" in out
    with Image.open(first / "summary.png") as picture:
        assert picture.width > 800

    again = override(compared, {"name": "again", "init_from": str(first)})
    second, out = measured(again, capsys)
    assert "against the weights it began from, on the same 12 images" in out
    before = {row["metric"]: row["value"] for row in read_rows(first)}
    start = {row["metric"]: row["value"] for row in read_rows(second.with_name("again-start"))}
    assert start == before  # of the first run, whose weights the second began from


def drawn_figure(run: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """Measure a run, and return its summary.png as a figure of which the parts can be read."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, path: Path, **options: object) -> None:
        save(figure, path, **options)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    Job(config).measure(run)
    (figure,) = figures
    return figure


def words_of(figure: Figure) -> str:
    """Return all text of a figure, with the labels of its axes and legends."""
    found = {text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))}
    return "\n".join(found)


def bars_of(figure: Figure) -> dict[str, list[float]]:
    """Return the ends of the bars of a figure's first axes, by what its legend calls them."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    found: dict[str, list[float]] = {}
    for bars, name in zip(handles, names, strict=True):
        found.setdefault(name, []).extend(bar.get_y() + bar.get_height() for bar in bars)
    return found


def values_of(run: Path, dataset: str, metric: str = "auroc") -> list[float]:
    chosen = [row for row in read_rows(run) if (row["dataset"], row["metric"]) == (dataset, metric)]
    return [row["value"] for row in chosen if row["fraction"] == 1]


def test_the_picture_is_of_the_first_dataset_whatever_else_the_results_hold(
    compared: Config, phantoms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = (str(phantoms["heldout"]), str(phantoms["unpaired"]))
    config = override(compared, {"after.datasets": datasets})
    run = pretrain(config)
    start = run.with_name("small-start")
    figure = drawn_figure(run, config, monkeypatch)
    own, begun = (values_of(one, "heldout") for one in (run, start))
    assert values_of(run, "unpaired") != own
    expected = {"pre-trained": own, "untrained encoder": begun}
    assert bars_of(figure) == {k: pytest.approx([100 * v for v in e]) for k, e in expected.items()}
    assert "Tested on heldout, disease: 12 images (patients unknown" in words_of(figure)

    evaluate(run, [(phantoms["paired"], "disease")], ["logistic"], run)  # as a later command does
    evaluate(run, [(phantoms["heldout"], "disease")], ["logistic"], run, fractions=[0.5])
    again = drawn_figure(run, config, monkeypatch)
    assert bars_of(again) == bars_of(figure)


def test_values_of_images_that_were_in_pretraining_have_a_dagger_and_its_note(
    compared: Config,
    phantoms: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    datasets = (str(phantoms["paired"]), str(phantoms["heldout"]))
    config = override(compared, {"after.datasets": datasets})
    run = pretrain(config)
    capsys.readouterr()
    figure = drawn_figure(run, config, monkeypatch)
    note = f"pre-trained: {DAGGER} paired: 4 of 4 test images were in pre-training (paired)"
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text.endswith(DAGGER) for text in texts] == [False, True]  # the start has seen none
    assert note in words_of(figure)
    assert "Held-out" not in words_of(figure)
    out = capsys.readouterr().out.splitlines()
    (seen,) = (line for line in out if line.startswith("paired disease, logistic: AUROC"))
    (unseen,) = (line for line in out if line.startswith("heldout disease, logistic: AUROC"))
    assert re.search(rf"AUROC [+-][\d.]+{DAGGER} \[", seen)
    assert DAGGER not in unseen
    assert note in out


def test_numbers_are_compared_by_their_error_and_what_is_not_compared_is_said(
    compared: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ages = write_ages(tmp_path / "klinik", images=60)
    datasets = (str(ages), *compared.after.datasets)
    changes = {"after.datasets": datasets, "after.task": "", "model.image_size": 32}
    config = override(compared, changes | {"after.protocols": ("zeroshot", "logistic")})
    run = pretrain(config)
    capsys.readouterr()
    figure = drawn_figure(run, config, monkeypatch)
    out = capsys.readouterr().out
    assert re.search(r"klinik age, ridge: MAE \(less is better\) [+-][\d.]+ \[", out)
    assert re.search(r"heldout diabetic_retinopathy, logistic: AUROC [+-]", out)
    assert "retinopathy, zeroshot: not compared: no zeroshot of the untrained encoder" in out
    assert bars_of(figure)["pre-trained"] == pytest.approx(values_of(run, "klinik", "mae"))
    assert figure.axes[0].get_ylim()[0] == 0
    assert "MAE (less is better), 95 % interval" in words_of(figure)
    assert "A fundus photograph of" not in words_of(figure)  # a number has no caption


def test_bars_below_chance_and_their_intervals_are_whole_and_values_stand_above_them() -> None:
    axes = Figure().subplots()
    row = {"dataset": "d", "n": 9, "note": "", "value": 0.3, "low": 0.02, "high": 0.6}
    alone = row | {"value": 0.52, "low": None, "high": None}  # of one patient
    sides = {"start": {"knn": alone}, "pre-trained": {"knn": row}}
    run_picture._scores(axes, sides, "pre-trained", "auroc")
    low, high = axes.get_ylim()
    assert low <= 2
    assert high > 100
    below, above = (_place(axes, text) for text in ("30.0", "52.0"))
    assert below == 60
    assert above == 52


def _place(axes: Axes, text: str) -> float:
    (one,) = (one for one in axes.texts if one.get_text() == text)
    return float(one.xy[1])


def test_the_losses_of_a_run_of_one_row_are_points(
    compared: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(compared, {"engine.log_every": 10})
    figure = drawn_figure(pretrain(config), config, monkeypatch)
    lines = figure.axes[1].get_lines()
    assert [len(line.get_xdata()) for line in lines] == [1, 1, 1]
    assert {line.get_marker() for line in lines} == {"o"}


def test_a_caption_has_no_empty_frame_where_there_are_fewer_images(
    compared: Config, phantoms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(compared, {"after.datasets": (str(phantoms["paired"]),)})
    figure = drawn_figure(pretrain(config), config, monkeypatch)
    empty = [axes for axes in figure.axes if not axes.has_data()]
    assert empty
    assert not any(axes.axison for axes in empty)


def test_a_run_measured_by_words_alone_is_compared_by_logistic_regression(
    compared: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = measured(override(compared, {"after.protocols": ("zeroshot",)}), capsys)
    assert {row["protocol"] for row in read_rows(run.with_name("small-start"))} == {"logistic"}
    assert (run / "summary.png").is_file()


def test_a_run_that_neither_decodes_nor_reads_has_a_summary_of_one_row_and_its_losses(
    compared: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    after = {f"after.{name}": getattr(compared.after, name)
             for name in ("datasets", "beside_start", "protocols")}  # fmt: skip
    run, _ = measured(shrunk(compared, **after), capsys)
    with Image.open(run / "summary.png") as picture:
        assert picture.width > 2 * picture.height


def drawn(built: Path) -> Path:
    build(ShardRequest(dataset="phantom", out=built, name="phantom", size=48, count=40, seed=5))
    return built


def test_a_task_that_the_measured_dataset_lacks_is_said_before_training(
    small: Config, tmp_path: Path
) -> None:
    built = drawn(tmp_path / "phantom")
    config = override(small, {"after.datasets": (str(built),), "after.task": "elsewhere"})
    with pytest.raises(ValueError, match=r"after\.task 'elsewhere': .* has .*disease"):
        prepare(config)


def test_where_the_recipes_dataset_is_not_there_the_runs_own_labelled_shards_are_named(
    small: Config, tmp_path: Path
) -> None:
    own = drawn(tmp_path / "my eyes")
    changes = {"data.paired": (str(own),), "after.datasets": ("shards/odir5k",)}
    with pytest.raises(ValueError, match="no such directory") as refused:
        prepare(override(small, changes | {"after.task": "diseases"}))
    (given,) = re.findall(r"as --after\.datasets=(.*) --after\.task=(\w+) ", str(refused.value))
    directory, task = shlex.split(given[0])[0], given[1]
    after = {"after.datasets": (directory,), "after.task": task}
    prepare(override(small, changes | after))


def test_a_text_tower_that_is_missing_is_said_before_phantoms_are_drawn(
    small: Config, tmp_path: Path
) -> None:
    undrawn = tmp_path / "phantom_paired"
    changes = {"data.paired": (str(undrawn),), "data.draw_phantoms": 8, "model.text": "no/bert"}
    with pytest.raises(ValueError, match=r"model\.text no/bert is not on this machine"):
        prepare(override(small, changes))
    assert not undrawn.exists()


@pytest.mark.parametrize("changed", [{}, {"model.text": "my tower"}])
def test_weights_of_a_recipe_that_are_missing_are_fetched_by_it_with_its_text_tower(
    changed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_cached", lambda _: [])
    config = override(maskedclip_vits_continue(), {"out": str(tmp_path / "runs"), **changed})
    with pytest.raises(ValueError, match="init_from facebook/dinov2-small is not on") as refused:
        prepare(config)
    (command,) = re.findall("run `(.*?)`", str(refused.value))
    words = shlex.split(command)
    assert words[:3] == ["python", "tools/prefetch.py", "maskedclip_vits_continue"]
    assert words[3:] == [f"--{field}={value}" for field, value in changed.items()]
    read, *_ = read_config("", PrefetchConfig(), "demo", words[2:])
    fetched = {need.name for need in needs(read)}
    assert fetched == {config.init_from, config.model.text}


def test_phantoms_of_which_a_step_has_no_image_are_neither_drawn_nor_recorded(
    small: Config, tmp_path: Path
) -> None:
    undrawn = tmp_path / "phantom_unpaired"
    changes = {"data.unpaired": (str(undrawn),), "data.draw_phantoms": 8, "optim.steps": 2}
    config = override(small, changes | {"data.unpaired_batch": 0, "loss.mim": 0.0})
    prepare(config)
    run = pretrain(config)
    assert not undrawn.exists()
    assert str(undrawn) not in (run / "provenance.json").read_text()


def test_a_run_whose_weights_are_refused_leaves_no_directory(small: Config) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        pretrain(override(small, {"init_from": "nowhere.pth"}))
    assert not small.directory.exists()
