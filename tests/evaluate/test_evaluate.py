"""FrozenEncoder protocols are scored on the test split, from features that are computed once."""

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from maskedclip.data.captions import prompts
from maskedclip.data.labelled import labelled
from maskedclip.data.splits import Division, division_of
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.evaluate.features import FrozenEncoder
from maskedclip.evaluate.measuring import LOST, inputs_of
from maskedclip.evaluate.predicting import Benchmark, Evaluation, class_prompts
from maskedclip.evaluate.protocols import evaluate
from maskedclip.evaluate.protocols import run as run_evaluate
from maskedclip.finetune.command import EvaluateConfig, read_evaluate
from maskedclip.inference import load
from maskedclip.metrics.prediction_files import read_predictions
from maskedclip.metrics.results import read_rows
from maskedclip.metrics.scores import METRICS, macro
from maskedclip.shards.building.prepare_sample import encode
from tests.untrained import SHAPE, exported

CLASSES = ("glaucoma", "no glaucoma", "normal")
ALL = ("zeroshot", "logistic", "linear", "knn")


def write_colours(directory: Path, test_labels: Sequence[str] = ()) -> Path:
    """Write 60 images to train and 30 to test, of three colours, one of them damaged."""
    generator = np.random.default_rng(0)
    with ShardWriter(directory, "colours") as writer:
        for i in range(90):
            image_HWC = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            image_HWC[..., i % 3] += 80
            jpeg = encode(image_HWC, 90)
            label = test_labels[i - 60] if test_labels and i >= 60 else CLASSES[i % 3]
            facts = {
                "labels": {"disease": label},
                "split": "train" if i < 60 else "test",
                "sha256": str(i),
            }
            writer.add(f"s{i:03d}", jpeg[:200] if i == 80 else jpeg, facts)
    return directory


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    write_colours(directory / "colours")
    exported(directory / "ours")
    return directory


def colours(root: Path) -> list[tuple[Path, str]]:
    return [(root / "colours", "disease")]


def spoiled(source: Path, directory: Path) -> Path:
    """Copy a dataset with the bytes of all its images overwritten, and nothing else."""
    shards = Shards(source)
    images = [shards.read(i)[0] for i in range(len(shards))]
    directory.mkdir()
    for file in source.iterdir():
        if file.is_file():
            content = bytearray(file.read_bytes())
            for jpeg in images if file.suffix == ".tar" else ():
                start = content.index(jpeg)
                content[start : start + len(jpeg)] = bytes(len(jpeg))
            (directory / file.name).write_bytes(content)
    return directory


def test_every_protocol_is_scored_on_the_test_split(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root / "ours"
    rows = evaluate(run, colours(root), ALL, run)
    assert rows == read_rows(run)
    by_metric = {(row["protocol"], row["metric"]): row for row in rows}
    assert set(by_metric) == {(protocol, metric) for protocol in ALL for metric in METRICS}
    for protocol in ("logistic", "linear", "knn"):
        assert by_metric[protocol, "auroc"]["value"] > 0.9
        assert "validation AUROC" in by_metric[protocol, "auroc"]["chosen"]
    facts = {(row["run"], row["method"], row["dataset"], row["n"]) for row in rows}
    assert facts == {("ours", "ours", "colours", 29)}
    printed = capsys.readouterr().out
    assert printed.count("colours  disease") == len(ALL)
    assert "is not known: the weights lie without their run\n" in printed  # no config.json here
    assert (run / LOST).read_text().count('"key": "s080"') == 1
    for protocol in ALL:
        _, classes, label_B, probability_BY = read_predictions(
            run / by_metric[protocol, "auroc"]["predictions"]
        )
        assert tuple(classes) == CLASSES
        for metric in METRICS:
            value = by_metric[protocol, metric]["value"]
            if metric == "quadratic_kappa":  # glaucoma, no glaucoma, normal: no grades
                assert value is None
                continue
            assert macro(metric, label_B, probability_BY)[0] == value


def test_one_command_fills_a_row_of_fractions_seeds_and_shots(root: Path) -> None:
    out = root / "row"
    evaluate(root / "ours", colours(root), ("logistic", "linear", "zeroshot"), out,
             fractions=(0.1, 1.0), seeds=2, shots=(1, 4))  # fmt: skip
    cells = [(r["protocol"], r["fraction"], r["seed"]) for r in read_rows(out)
             if r["metric"] == "auroc"]  # fmt: skip
    assert cells == [
        ("logistic", 0.1, 0), ("logistic", 0.1, 1), ("logistic", 1.0, 0),  # a seed changes no more
        ("linear", 0.1, 0), ("linear", 0.1, 1), ("linear", 1.0, 0), ("linear", 1.0, 1),
        ("zeroshot", 0.0, 0),
        ("1-shot", 0.0625, 0), ("1-shot", 0.0625, 1), ("4-shot", 0.25, 0), ("4-shot", 0.25, 1),
    ]  # fmt: skip
    assert len(list((out / "predictions").glob("*-test.csv"))) == len(cells)


def test_a_second_protocol_and_seed_read_no_image(root: Path, tmp_path: Path) -> None:
    other = spoiled(root / "colours", tmp_path / "colours")
    cache, first = tmp_path / "features", tmp_path / "first"
    evaluate(root / "ours", colours(root), ("logistic",), first, cache=cache)
    (file,) = cache.iterdir()
    before = file.stat().st_mtime_ns, file.read_bytes()
    rows = evaluate(root / "ours", [(other, "")], ALL, tmp_path / "second",
                    fractions=(0.5, 1.0), seeds=2, cache=cache)  # fmt: skip
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    assert {row["n"] for row in rows} == {29}
    (whole,) = [r for r in rows if (r["protocol"], r["metric"], r["fraction"]) ==
                ("logistic", "auroc", 1.0)]  # fmt: skip
    assert whole["value"] == read_rows(first)[0]["value"]
    with pytest.raises(RuntimeError, match="no image of test can be read"):  # it is really spoiled
        evaluate(root / "ours", [(other, "")], ("knn",), tmp_path / "third")


@pytest.mark.parametrize("flag", ["out", "cache"])
def test_what_cannot_be_written_is_refused_before_features_are_made(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    (tmp_path / "file").write_text("")
    places = {"out": tmp_path / "out", "cache": tmp_path / "cache"} | {
        flag: tmp_path / "file" / "x"
    }
    with pytest.raises(ValueError, match=rf"--{flag} .*file is a file; choose another --{flag}"):
        evaluate(root / "ours", colours(root), ("knn",), **places)
    assert "features of" not in capsys.readouterr().err  # the bar of images that are read
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_finished_evaluation_is_not_run_again_unless_something_of_it_changes(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "features"
    rows = evaluate(root / "ours", colours(root), ("knn",), tmp_path, cache=cache)
    csv = tmp_path / rows[0]["predictions"]
    before = csv.stat().st_mtime_ns
    (file,) = cache.iterdir()
    file.unlink()
    assert evaluate(root / "ours", colours(root), ("knn",), tmp_path, cache=cache) == rows
    assert csv.stat().st_mtime_ns == before
    assert not list(cache.iterdir())  # not even features are wanted
    csv.unlink()  # without its predictions a number is not finished
    assert evaluate(root / "ours", colours(root), ("knn",), tmp_path, cache=cache) == rows
    assert csv.is_file()
    weights = {name: value + 0.01 for name, value in load(root / "ours").network.encoder
               .state_dict().items()}  # fmt: skip
    other = tmp_path / "changed" / "encoder.safetensors"
    other.parent.mkdir()
    header = {"format": "pt", "maskedclip": json.dumps(SHAPE)}
    said = []
    assert "are replaced" not in caplog.text
    for step in (0.0, 0.5):  # a file of the same name with other content
        moved = {name: (value + step).contiguous() for name, value in weights.items()}
        save_file(moved, other, metadata=header)
        rows = evaluate(other, colours(root), ("knn",), tmp_path, cache=cache)
        assert len(list(cache.iterdir())) == (2 if step == 0 else 3)
        said.append(re.findall(r"(\d+) rows of changed on colours are replaced", caplog.text))
    assert {row["run"] for row in read_rows(tmp_path)} == {"ours", "changed"}
    assert len(read_rows(tmp_path)) == 2 * len(rows)
    assert said == [[], [str(len(rows))]]  # the rows of another file of the same name


@pytest.mark.parametrize(
    ("protocol", "grid"),
    [
        ("logistic", "maskedclip.metrics.probes.STRENGTHS"),
        ("2-shot", "maskedclip.metrics.probes.STRENGTHS"),
        ("ridge", "maskedclip.metrics.probes.ALPHAS"),
        ("knn", "maskedclip.metrics.probes.NEIGHBOURS"),
        ("linear", "maskedclip.evaluate.linear_probe.RATES"),
        ("attentive", "maskedclip.evaluate.attentive_probe.RATES"),
        ("attentive", "maskedclip.evaluate.attentive_probe.DECAYS"),
    ],
)
def test_a_result_of_another_grid_is_not_the_one_that_is_stored(
    root: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, grid: str
) -> None:
    dataset = Shards(root / "colours")
    task = labelled(dataset, "disease")
    benchmark = Benchmark(dataset, task, division_of(dataset, task))
    encoder = FrozenEncoder(root / "ours")
    key = encoder.cache_key(dataset)
    asked = Evaluation(protocol, 1.0, 0, benchmark.division.parts["train"])
    before = inputs_of(key, encoder, benchmark, asked)
    assert inputs_of(key, encoder, benchmark, asked) == before
    monkeypatch.setattr(grid, (0.5, 2.0))
    assert inputs_of(key, encoder, benchmark, asked) != before


def test_results_that_their_predictions_do_not_give_are_said_and_measured_again(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def measured() -> list[dict[str, object]]:
        caplog.clear()
        return evaluate(root / "ours", colours(root), ("knn",), tmp_path, cache=tmp_path / "f")

    rows = measured()
    table, other = tmp_path / "results.jsonl", tmp_path / rows[0]["predictions"]
    written, own = table.read_text(), other.read_text()
    value = next(row["value"] for row in rows if row["metric"] == "auroc")
    table.write_text(written.replace(f'"value": {value}', '"value": 0.123'))
    assert measured() == rows
    assert "gives auroc" in caplog.text
    assert "says 0.123; measured again" in caplog.text
    lines = own.splitlines()
    turned = [",".join([*line.split(",")[:-3], *line.split(",")[:-4:-1]]) for line in lines[1:]]
    other.write_text("\n".join([lines[0], *turned]) + "\n")  # another run's, under this name
    assert measured() == rows
    assert "measured again" in caplog.text
    assert other.read_text() == own
    measured()
    assert "measured again" not in caplog.text


def test_test_labels_do_not_change_what_is_predicted(root: Path, tmp_path: Path) -> None:
    shuffled = [CLASSES[i % 3] for i in range(30)]
    random.Random(0).shuffle(shuffled)
    other = write_colours(tmp_path / "colours", shuffled)
    tables = []
    for name, directory in (("own", root / "colours"), ("shuffled", other)):
        rows = evaluate(root / "ours", [(directory, "")], ("logistic", "linear", "knn"),
                        tmp_path / name, fractions=(0.2,), shots=(2,))  # fmt: skip
        knobs = {row["predictions"]: row["chosen"] for row in rows}
        files = {n: read_predictions(tmp_path / name / n)[3].tolist() for n in knobs}
        tables.append((knobs, files))
        labels = read_predictions(tmp_path / name / rows[0]["predictions"])[2].tolist()
        tables[-1] = (*tables[-1], labels)
    assert tables[0][:2] == tables[1][:2]
    assert tables[0][2] != tables[1][2]


def test_zero_shot_is_what_classify_says_of_the_images(root: Path, tmp_path: Path) -> None:
    row = evaluate(root / "ours", colours(root), ("zeroshot",), tmp_path)[0]
    _, classes, _, probability_BY = read_predictions(tmp_path / row["predictions"])
    image = tmp_path / "one.jpg"
    image.write_bytes(Shards(root / "colours").read(60)[0])
    classified_BY = load(root / "ours").classify([image], classes).numpy()
    np.testing.assert_allclose(
        classified_BY, probability_BY[:1], atol=0.02
    )  # bf16 there, fp32 here


def test_a_class_is_asked_for_by_all_the_words_of_the_dictionary_or_by_its_own(
    tmp_path: Path,
) -> None:
    names = ("2_Cataract", "glaucoma", "spots of unknown kind", "7")
    with ShardWriter(tmp_path / "d", "d") as writer:
        for i in range(8):
            writer.add(f"s{i}", b"", {"labels": {"finding": names[i % 4]}, "sha256": str(i)})
    dataset = Shards(tmp_path / "d")
    task = labelled(dataset)
    benchmark = Benchmark(dataset, task, Division({}, {}))
    captions = dict(zip(task.classes, class_prompts(benchmark), strict=True))
    assert captions["glaucoma"] == prompts("glaucoma")
    assert captions["2_Cataract"] == prompts("cataract")
    assert min(len(captions["glaucoma"]), len(captions["2_Cataract"])) > 1
    for name in ("spots of unknown kind", "7"):
        assert captions[name] == [f"A fundus photograph of {name}"]


def test_weights_without_a_text_tower_have_no_zero_shot(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = root / "ours" / "encoder.safetensors"
    with pytest.raises(ValueError, match="no text tower"):
        evaluate(weights, colours(root), ("zeroshot",), tmp_path)
    rows = evaluate(weights, colours(root), ("knn", "zeroshot"), tmp_path)
    assert {row["protocol"] for row in rows} == {"knn"}
    assert "no text tower; zeroshot is left out" in caplog.text


def test_an_untrained_encoder_is_always_the_same(root: Path, tmp_path: Path) -> None:
    rows = [evaluate("random", colours(root), ("knn",), tmp_path / name, size="micro")
            for name in ("one", "two")]  # fmt: skip
    assert rows[0] == rows[1]
    assert {row["method"] for row in rows[0]} == {"random_micro"}


def test_the_command_line_is_checked_before_anything_is_touched(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, dataset = str(root / "ours"), str(root / "colours")
    config = read_evaluate("", [run, "--datasets", dataset, "--protocols", "linear"])
    assert (config.datasets, config.protocols) == ((dataset,), ("linear",))
    config = read_evaluate("", [run, "--datasets", dataset, "--fractions=0.1,1.0", "--seeds=5"])
    assert (config.fractions, config.seeds) == ((0.1, 1.0), 5)
    (tmp_path / "flat").mkdir()
    for arguments, answer in (
        ([run, "--datasets", dataset, "--protocols", "linaer"], "did you mean linear?"),
        ([run, "--datasets", f"{dataset},{dataset}s"], "no such directory"),
        ([run, "--datasets", str(tmp_path / "flat")], "flat: is empty; build it with"),
        ([run, "--datasets", dataset, "--fractions", "10"], "write shares of the labels"),
        ([run, "--datasets", dataset, "--shots", "0"], "at least 1"),
        ([run, "--datasets", "paper", f"--shards={tmp_path}"], "none of the paper's datasets"),
        ([run], "no dataset given"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_evaluate("", arguments)
        assert stopped.value.code == 2
        assert answer in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_what_is_there_of_the_paper_and_names_the_rest(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "retina").symlink_to(phantoms["heldout"])
    words = ["random", "--size=micro", "--datasets=paper", "--protocols=knn", "--seeds=2",
             "--fractions=0.5,1.0", "--shots=2"]  # fmt: skip
    command = [sys.executable, "-m", "maskedclip.evaluate", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("aptos2019", "idrid", "messidor2", "glaucoma_fundus", "origa", "jsiec"):
        assert f"tools/make_shards.py {name} --root" in done.stderr
    assert "60/60" in done.stderr  # how far the features are
    out = Path("runs/random_micro")
    assert done.stdout.endswith(f"next: python -m maskedclip.report {out} --out report\n")
    assert len(read_rows(tmp_path / out)) == 5 * len(METRICS)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout
    assert "60/60" not in again.stderr


def test_a_class_only_in_the_test_split_is_left_out_of_means_and_named(
    root: Path, tmp_path: Path
) -> None:
    labels = [CLASSES[i % 3] if i < 24 else "cataract" for i in range(30)]
    data = write_colours(tmp_path / "colours", labels)
    out = tmp_path / "out"
    rows = evaluate(root / "ours", [(data, "disease")], ["knn", "zeroshot"], out)
    by_metric = {(row["protocol"], row["metric"]): row for row in rows}
    row = by_metric["knn", "auroc"]
    assert row["note"] == "no training image of cataract: mean of the other classes"
    assert row["untrained"] == ["cataract"]
    _, classes, label_B, probability_BY = read_predictions(out / row["predictions"])
    one_by_one = [
        roc_auc_score(label_B == y, probability_BY[:, y])
        for y, name in enumerate(classes)
        if name != "cataract"
    ]
    assert row["value"] == pytest.approx(np.mean(one_by_one))
    assert by_metric["zeroshot", "auroc"]["untrained"] == []  # which is trained on no class


def test_two_datasets_of_one_name_are_refused_as_their_results_would_be_the_same_rows(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(phantoms["heldout"], tmp_path / "elsewhere")
    options = EvaluateConfig(
        weights="random", datasets=(str(phantoms["heldout"]), str(copy)), out=str(tmp_path / "out")
    )
    with pytest.raises(ValueError, match="are both called heldout"):
        run_evaluate(options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "normal|glaucoma,no glaucoma"}, "no class 'no glaucoma'"),
        ({"classes_order": CLASSES[::-1]}, "classes_order .* has not other"),
        ({}, "are left for val"),
    ],
)
def test_what_the_last_dataset_lacks_is_said_before_the_first_is_measured(
    options: dict[str, object], message: str, root: Path, tmp_path: Path
) -> None:
    with ShardWriter(tmp_path / "last", "last") as writer:
        for i in range(40 if options else 2):
            image = encode(np.full((40, 40, 3), i, np.uint8), 90)
            name = ("glaucoma", "normal", "other")[i % 3]
            writer.add(f"s{i:02d}", image, {"labels": {"disease": name}, "sha256": str(i)})
    datasets = [*colours(root), (tmp_path / "last", "disease")]
    with pytest.raises(ValueError, match=message):
        evaluate(root / "ours", datasets, ("knn",), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
