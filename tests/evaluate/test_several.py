"""Several encoders in one table: each row as alone, ensembles, paired tests, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.features import PATCHES, Ensemble, FrozenEncoder, features
from maskedclip.evaluate.several import run_all
from maskedclip.finetune.command import EvaluateConfig, encoders_of
from maskedclip.metrics.comparison import paired_bootstrap
from maskedclip.metrics.results import predictions_of, read_rows
from maskedclip.metrics.seen_images import in_words
from maskedclip.report.encoder_table import table_name
from tests.colours import two_colours
from tests.evaluate.test_evaluate import write_colours
from tests.models.checkpoints.test_architectures import written
from tests.models.test_joint_space import CHINESE, vilref_whole
from tests.untrained import exported

TABLE = "ours,random_micro,ours+random_micro"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    """Return what was asked for of a run with text, an untrained encoder, and both together."""
    root = tmp_path_factory.mktemp("several")
    two_colours(root / "colours", contrast=2)
    exported(root / "ours")
    return EvaluateConfig(
        weights=f"{root / 'ours'},random,{root / 'ours'}+random", size="micro", image_size=32,
        datasets=(str(root / "colours"),), protocols=("zeroshot", "knn"), threads=0,
        out=str(root / "out"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(asked: EvaluateConfig) -> list[dict]:
    return run_all(asked)


def test_each_encoder_has_a_line_in_the_block_of_a_protocol(asked: EvaluateConfig, rows):
    names = ["ours", "random_micro", "ours+random_micro"]
    assert {(row["protocol"], row["run"]) for row in rows} == {
        ("zeroshot", "ours"), *(("knn", name) for name in names),
    }  # fmt: skip
    text = (Path(asked.out) / f"{TABLE}.md").read_text()
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    cells = {(line[1].strip(), line[2].strip().replace("\\", "")): line[3] for line in lines}
    for row in rows:
        if row["metric"] == "auroc":
            block = "zeroshot" if row["protocol"] == "zeroshot" else "knn, 100 %"
            value, low, high = (f"{100 * row[key]:.1f}" for key in ("value", "low", "high"))
            cell = cells[block, row["run"]]
            assert value in cell
            assert f"[{low}, {high}]" in cell
    assert "32 px, ImageNet's colours." in text
    assert all((Path(asked.out) / f"{TABLE}.{kind}").is_file() for kind in ("tex", "csv"))


def test_a_row_is_the_one_of_the_encoder_alone(asked: EvaluateConfig, rows, tmp_path: Path):
    ours = asked.weights.split(",")[0]
    alone = run_all(replace(asked, weights=ours, protocols=("knn",), out=str(tmp_path)))
    own = [row for row in rows if row["run"] == "ours" and row["protocol"] == "knn"]
    files = {"predictions": "", "validation": ""}  # are called after the folder, too
    assert [row | files for row in own] == [row | files for row in alone]


def test_an_encoder_without_a_text_tower_has_few_shots_where_zero_shot_is_asked_for(
    asked: EvaluateConfig, tmp_path: Path
):
    both = ",".join(asked.weights.split(",")[:2])
    changes = {"weights": both, "protocols": ("zeroshot",), "shots": (2,), "seeds": 1}
    found = run_all(replace(asked, out=str(tmp_path), **changes))
    assert {(row["protocol"], row["run"]) for row in found} == {
        ("zeroshot", "ours"), ("2-shot", "ours"), ("2-shot", "random_micro"),
    }  # fmt: skip


def test_an_ensemble_has_both_features_of_unit_length_side_by_side(asked: EvaluateConfig, rows):
    ours = asked.weights.split(",")[0]
    members = [FrozenEncoder(name, "micro", 32) for name in (ours, "random")]
    dataset = Shards(Path(asked.datasets[0]))
    samples = labelled(dataset).samples
    read = [
        features(one, dataset, samples, Path(asked.out) / "features", 0)
        for one in (*members, Ensemble(members))
    ]
    first_BD, second_BD, both_BD = (one.of(samples, PATCHES)[1] for one in read)
    units = [row_BD / np.sqrt((row_BD**2).sum(1))[:, None] for row_BD in (first_BD, second_BD)]
    assert both_BD.shape[1] == first_BD.shape[1] + second_BD.shape[1]
    assert np.allclose(both_BD, np.hstack(units), atol=1e-6)
    assert {in_words(row) for row in rows} == {"32 px, ImageNet's colours"}
    other = {
        "members": [{"image_size": 32, "colours": "clip"}, {"image_size": 48, "colours": "half"}]
    }
    assert in_words(other) == "32 px, CLIP's colours beside 48 px, colours from -1 to 1"


def test_the_tests_of_the_table_are_those_of_the_predictions(asked: EvaluateConfig, rows):
    out = Path(asked.out)
    aurocs = {
        row["run"]: (row["value"], predictions_of(out / row["run"], row)[0])
        for row in rows
        if row["metric"] == "auroc" and row["protocol"] == "knn"
    }
    best = max(aurocs, key=lambda name: aurocs[name][0])
    lines = (out / f"{TABLE}.md").read_text().replace("\\", "").splitlines()
    for name in aurocs.keys() - {best}:
        found = paired_bootstrap("auroc", [aurocs[name][1]], [aurocs[best][1]])
        shown = f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        (line,) = (x for x in lines if shown in x and "ROC" in x and f" {name} " in x)
        assert f" {best} " in line


def test_the_same_command_measures_nothing_again(asked: EvaluateConfig, rows, monkeypatch):
    monkeypatch.setattr("maskedclip.evaluate.measuring.predict", None)
    assert run_all(asked) == rows
    assert len(read_rows(Path(asked.out) / "random_micro")) == len(rows) // 4


def test_the_table_of_some_encoders_stays_where_others_are_compared(
    asked: EvaluateConfig, capsys: pytest.CaptureFixture
) -> None:
    run_all(asked)
    files = [Path(asked.out) / f"{TABLE}.{kind}" for kind in ("md", "tex", "csv")]
    before = [path.read_bytes() for path in files]
    run_all(replace(asked, weights=asked.weights.rpartition(",")[0]))
    assert [path.read_bytes() for path in files] == before
    assert f"this table: {Path(asked.out) / 'ours,random_micro.md'}" in capsys.readouterr().out


def test_tables_of_many_encoders_have_names_that_a_disk_takes_and_that_differ():
    many = [f"maskedclip_vitb_study_{number}" for number in range(40)]
    names = {table_name(many[:count]) for count in range(1, 41)}
    assert len(names) == 40
    assert max(len(name) for name in names) < 110


def test_names_that_mean_no_two_encoders_are_refused(asked: EvaluateConfig, tmp_path: Path):
    assert encoders_of("a,b,a+b") == [["a"], ["b"], ["a", "b"]]
    (tmp_path / "one,two").mkdir()
    assert encoders_of(str(tmp_path / "one,two")) == [[str(tmp_path / "one,two")]]
    with pytest.raises(ValueError, match="a: named twice; name each encoder once"):
        encoders_of("a,b,a")
    exported(tmp_path / "other" / "ours")
    ours = asked.weights.split(",")[0]
    with pytest.raises(ValueError, match="are both called ours in tables"):
        run_all(replace(asked, weights=f"{ours},{tmp_path / 'other' / 'ours'}"))


def test_a_chinese_text_tower_has_zero_shot_but_where_a_class_has_no_chinese_words(
    asked: EvaluateConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(CHINESE) + "\n")
    vilref = written(tmp_path, "vilref.pt", vilref_whole().content)
    write_colours(tmp_path / "findings")
    two_colours(tmp_path / "two", contrast=2)
    options = replace(
        asked, weights=f"{vilref},{asked.weights.split(',')[0]}", out=str(tmp_path / "out"),
        datasets=(str(tmp_path / "findings"), str(tmp_path / "two")),
    )  # fmt: skip
    rows = run_all(options)
    measured = {(row["run"], row["task"]) for row in rows if row["protocol"] == "zeroshot"}
    assert measured == {("vilref", "disease"), ("ours", "disease"), ("ours", "colour")}
    assert (
        "prompt 'green': this text tower reads Chinese; write the prompts in Chinese; zero-shot "
        "is left out" in caplog.text
    )
