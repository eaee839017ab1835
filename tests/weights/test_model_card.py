"""A model card says what the run holds, and of the rest that it is not known."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from maskedclip.config import Config, flat, override
from maskedclip.metrics.results import IDENTITY, write_rows
from maskedclip.weights.model_card import CHECK, card, measured_lines
from maskedclip.weights.source_run import FeatureCheck, read_source
from tests.untrained import exported

CONFIG: dict[str, Any] = {
    "name": "subject",
    "seed": 3,
    "init_from": "mae.pth",
    "data": {"paired": ["shards/odir5k"], "unpaired": ["shards/clinic"], "paired_batch": 6,
             "unpaired_batch": 4},
    "loss": {"mim": 1.0, "clip": 0.01, "mfd": 0.0},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "subject"
    exported(path)
    return path


def written(run: Path, **changes: Any) -> str:
    checks = [FeatureCheck("features", 2.5e-7), FeatureCheck("other", 0.5, None)]
    return card(read_source(run), changes.get("to", "hf"), ["import x"], checks, ["mind this"])


def leave_records(
    run: Path, *, device: str | None = "NVIDIA A100", worlds: tuple[int, ...] = (4,)
) -> None:
    """Leave what pre-training leaves: 100 images at 10 a second, then 300 at 5."""
    run.joinpath("config.json").write_text(json.dumps(CONFIG))
    steps = [{"step": 10, "images_per_s": 10.0, "loss": 2.0},
             {"step": 40, "images_per_s": 5.0, "loss": 1.5}]  # fmt: skip
    lines = [json.dumps(row) for row in steps]
    run.joinpath("metrics.jsonl").write_text("\n".join([*lines, '{"step": 41, "ima']))
    base = {"manifests_sha256": {}, "packages": {"torch": "2.14"}, "git": None}
    recorded = {"device": device} if device else {}
    starts = [base | recorded | {"world": world} for world in worlds]
    run.joinpath("provenance.json").write_text(json.dumps(starts))


def shards(run: Path, **facts: Any) -> str:
    """Leave a manifest beside the runs; return its hash."""
    path = run.parents[1] / "shards" / "clinic" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"samples": 1234, "licence": "ours | alone"} | facts))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_front_matter_is_what_the_hub_reads(run: Path) -> None:
    for to, library in (("timm", "timm"), ("hf", "transformers"), ("retfound", None)):
        data = ModelCard(written(run, to=to)).data
        assert (data.license, data.library_name) == ("other", library)
        assert data.pipeline_tag == "image-feature-extraction"
        assert "fundus" in data.tags
    assert ModelCard(written(run, to="open_clip")).data.pipeline_tag.startswith("zero-shot")


def test_weights_without_a_run_have_a_card_of_what_is_not_known(run: Path) -> None:
    text = written(run)
    for line in (
        "Data: not known",
        "config.json: not known",
        "Scores are not known",
        "not known: the run has no metrics.jsonl",
        "Not checked: the run keeps no report",
        "Code and versions of the run: not known",
        "| `size` | micro |".replace("`", ""),
        "| features | 2.5e-07 |",
        "- mind this",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("changes", "losses", "paper", "field"),
    [
        ({}, "image-text contrast (0.01)", "*MaskedCLIP: ", "`loss.clip`"),
        (
            {"method": "dinov2", "loss": {}},
            "iBOT on masked patches (1)",
            "*DINOv2: ",
            "`dino.ibot`",
        ),
        ({"method": "simmim"}, "modelling (1). Ended", "*SimMIM: ", "`loss.normalise_pixels`"),
    ],
)
def test_the_card_names_the_method_its_losses_and_its_paper(
    run: Path, changes: dict[str, Any], losses: str, paper: str, field: str
) -> None:
    leave_records(run)
    whole = asdict(override(Config(), flat(CONFIG | changes)))
    run.joinpath("config.json").write_text(json.dumps(whole))
    text = written(run)
    for part in (losses, paper, field):
        assert part in text
    assert ("MaskedCLIP: Bridging" in text) == (paper == "*MaskedCLIP: ")


def test_data_have_the_licences_of_their_manifests_and_of_their_cards(run: Path) -> None:
    leave_records(run)
    shards(run)
    text = written(run)
    assert "| unpaired | 1,234 | ours \\| alone | not known | the run does not say" in text
    assert "`shards/odir5k`: ODIR-5K" in text  # its shards are gone, its card is there
    assert "None stated (challenge of Peking University, 2019)" in text
    assert "from the card maskedclip/shards/cards/odir5k.toml" in text
    assert "Began from: `mae.pth`, licence not known." in text


def test_a_source_of_which_a_step_had_no_image_is_left_out(run: Path) -> None:
    leave_records(run)
    data = CONFIG["data"] | {"unpaired_batch": 0}
    run.joinpath("config.json").write_text(json.dumps(CONFIG | {"data": data}))
    text = written(run)
    assert "`shards/odir5k`: ODIR-5K" in text
    assert "clinic" not in text


def test_shards_that_changed_after_the_run_are_noted(run: Path) -> None:
    leave_records(run)
    digest = shards(run)
    path = run / "provenance.json"
    (start,) = json.loads(path.read_text())
    for digest_read, note in (
        (digest, "|  |"),
        ("another", "the shards have changed since the run"),
    ):
        start["manifests_sha256"] = {"shards/clinic": digest_read}
        path.write_text(json.dumps([start]))
        (line,) = [x for x in written(run).splitlines() if x.startswith("| `shards/clinic`")]
        assert note in line


def test_hours_are_those_of_the_logged_steps_times_the_ranks(run: Path) -> None:
    leave_records(run)  # 10 s and 60 s
    assert "0.0778 GPU-hours: 0.0194 hours x 4 processes with a GPU each (NVIDIA A100)." in written(
        run
    )
    leave_records(run, device="cpu")
    assert "0 GPU-hours: 0.0194 hours x 4 processes on processors" in written(run)
    leave_records(run, device=None)
    assert "not known: 0.0194 hours x 4 processes, and the run does not say" in written(run)
    leave_records(run, worlds=(4, 8))
    assert "not known: 0.0194 hours on 4, 8 processes in turn" in written(run)


def row(run: str, metric: str, value: float | None, **changes: Any) -> dict[str, Any]:
    identity = dict(zip(IDENTITY, (run, "idrid", "dr", "finetune", 0.1, 0, metric), strict=True))
    bounds = {"low": None if value is None else value - 0.1, "high": None if value is None else 1.0}
    return identity | {"value": value, "n": 103, "note": ""} | bounds | changes


def test_scores_stand_with_their_intervals_those_of_fine_tunings_too(run: Path) -> None:
    leave_records(run)
    write_rows(run, [row("subject", "auroc", 0.8), row("subject", "macro_f1", None, note="one")])
    tuned = run.parent / "tuned"
    write_rows(tuned, [row("tuned", "auroc", 0.9, low=None, high=None, fraction=1.0)])
    (tuned / "config.json").write_text(json.dumps({"weights": "runs/subject"}))
    other = run.parent / "other"
    write_rows(other, [row("other", "auroc", 0.123)])
    (other / "config.json").write_text(json.dumps({"weights": "runs/another"}))
    text = written(run)
    assert (
        "| idrid | dr | finetune | 10 % | 0 | not known | 103 | 80.0 [70.0, 100.0] | not known |"
        in text
    )
    assert "| idrid | dr | finetune | 100 % | 0 | not known | 103 | 90.0 | not known |" in text
    assert "- idrid: one" in text
    assert "12.3" not in text


def test_a_report_of_leakage_that_the_run_keeps_is_shown(run: Path) -> None:
    leave_records(run)
    asked = "python tools/check_shards.py shards/odir5k shards/clinic --against TEST_SHARDS --out"
    assert f"{asked} {run / CHECK}" in written(run)
    (run / CHECK).mkdir()
    report = {
        "samples": 900, "dropped": 7, "to_drop": 0, "datasets": {"shards/odir5k": {}},
        "pairs": {"near": {"within a split": 2, "with --against": 5}},
    }  # fmt: skip
    (run / CHECK / "report.json").write_text(json.dumps(report))
    text = written(run)
    assert "checked `shards/odir5k`: 900 samples" in text
    assert "It did not check `shards/clinic`." in text
    assert "| near | 2 | 5 |" in text
    assert "Samples excluded for it: 7; still to drop: 0." in text


def test_a_damaged_file_of_the_run_is_named(run: Path) -> None:
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not whole JSON"):
        written(run)
    leave_records(run)
    (run / "metrics.jsonl").write_text('{"step"\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 1 is not JSON"):
        written(run)


def test_measured_labels_and_numbers_have_tables_of_their_own_metrics() -> None:
    shared = {"dataset": "odir", "protocol": "knn", "fraction": 1.0, "seed": 0, "n": 9, "note": ""}
    rows = [
        shared | {"task": "findings", "kind": "labels", "metric": "auroc", "value": 0.8123,
                  "low": 0.7, "high": 0.9},
        shared | {"task": "age", "kind": "number", "metric": "mae", "value": 5.25,
                  "low": 4.0, "high": 6.5},
    ]  # fmt: skip
    text = "\n".join(measured_lines(rows))
    assert "81.2 [70.0, 90.0]" in text
    assert "5.25 [4.00, 6.50]" in text
    assert "| mae | r2 | pearson |" in text
    assert "| macro f1 | micro f1 | odir score |" in text
