"""Maps over photographs: of the right pixels, of the right scores, by every kind of weights."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from maskedclip.data.labelled_views import preparation
from maskedclip.explain.command import ExplainConfig, read_explain
from maskedclip.explain.maps import maps_of, request_maps
from maskedclip.explain.overlays import as_seen, center_crop_box, explain
from maskedclip.explain.pointing_game import TABLE, play, reinitialise
from maskedclip.inference import load
from maskedclip.models.classifier import FINETUNED, build_classifier, write_classifier
from maskedclip.next_step import explain_commands
from maskedclip.shards.phantoms.phantom import draw
from tests.untrained import exported

CLASSES = ("normal", "diabetic retinopathy", "glaucoma")
PROMPTS = ("drusens", "haemorrhages")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pre-trained run, its encoder alone and a fine-tuned run, all untrained."""
    root = tmp_path_factory.mktemp("runs")
    exported(root / "whole", patch_size=8)
    classifier, _ = build_classifier(
        str(root / "whole"), image_size=32, num_classes=3, drop_path=0.0, size="micro"
    )
    torch.nn.init.trunc_normal_(classifier.head.weight, std=0.5)
    (root / "tuned").mkdir()
    write_classifier(classifier, root / "tuned" / FINETUNED, CLASSES, {"task": "disease"})
    return {
        "whole": root / "whole",
        "encoder": root / "whole" / "encoder.safetensors",
        "tuned": root / "tuned",
    }


@pytest.fixture
def photographs(tmp_path: Path) -> tuple[str, ...]:
    for seed in (1, 2):
        image_HWC = draw(seed, 64).image_HWC
        wide_HWC = np.pad(image_HWC, ((0, 0), (10, 20), (0, 0)))
        Image.fromarray(wide_HWC).save(tmp_path / f"eye{seed}.png")
    return tuple(str(tmp_path / f"eye{seed}.png") for seed in (1, 2))


def read_maps(out: Path) -> list[dict[str, str]]:
    with (out / "maps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (90, 50), (57, 200), (700, 512)])
def test_the_box_of_a_patch_holds_the_pixels_that_the_network_sees_there(
    width: int, height: int
) -> None:
    box = center_crop_box(width, height, 32)
    assert min(box.left, box.top) >= 0
    assert box.right <= width
    assert box.bottom <= height
    for row, column in ((0, 0), (1, 3), (3, 2)):
        image_HWC = np.zeros((height, width, 3), np.uint8)
        across, down = (box.right - box.left) / 4, (box.bottom - box.top) / 4
        left, top = box.left + column * across, box.top + row * down
        image_HWC[round(top) : round(top + down), round(left) : round(left + across)] = 255
        seen_HWC = as_seen(preparation(32)(Image.fromarray(image_HWC)))
        bright_RC = seen_HWC.mean(axis=2).reshape(4, 8, 4, 8).mean(axis=(1, 3))
        assert bright_RC[row, column] > 0.85 * 255
        bright_RC[row, column] = 0
        assert bright_RC.max() < 0.15 * 255


def test_what_is_drawn_on_is_what_the_network_saw() -> None:
    picture = Image.fromarray(draw(3, 48).image_HWC)
    resized = picture.resize((36, 36), Image.Resampling.BICUBIC)
    by_hand_HWC = np.asarray(resized.crop((2, 2, 34, 34)))
    assert (as_seen(preparation(32)(picture)) == by_hand_HWC).all()


def test_prompts_and_classes_have_the_probabilities_that_the_model_gives(
    runs: dict[str, Path], photographs: tuple[str, ...]
) -> None:
    for kind, prompts in (("whole", PROMPTS), ("tuned", None)):
        model = load(runs[kind])
        image_BCHW = preparation(32)(Image.open(photographs[0]))[None]
        methods = ("relevance", "text") if prompts else ("relevance",)
        maps = maps_of(model, image_BCHW, request_maps(model, methods, prompts or (), ()))
        probability_Y = model.classify([photographs[0]], prompts)[0]
        if prompts:
            assert [(m.method, m.about) for m in maps] == [
                (method, prompt) for method in methods for prompt in prompts
            ]
            assert [m.probability for m in maps] == pytest.approx(probability_Y.tolist() * 2)
        else:
            (only,) = maps
            assert only.about == CLASSES[int(probability_Y.argmax())]
            assert only.probability == pytest.approx(probability_Y.max().item())


@pytest.mark.parametrize("positions", ["sine", "rotary"])
def test_maps_of_networks_with_registers_are_of_the_patches(
    photographs: tuple[str, ...], tmp_path: Path, positions: str
) -> None:
    exported(tmp_path / "whole", patch_size=8, registers=3, positions=positions)
    alone = [tmp_path / "whole" / "encoder.safetensors"] if positions == "sine" else []
    for weights in (tmp_path / "whole", *alone):
        model = load(weights)
        whole = weights.is_dir()
        image_BCHW = preparation(32)(Image.open(photographs[0]))[None]
        methods = ("rollout", "cls", *(("relevance", "text") if whole else ()))
        request = request_maps(model, methods, PROMPTS if whole else (), ())
        maps = maps_of(model, image_BCHW, request)
        assert {one.value_RC.shape for one in maps} == {(4, 4)}
        # of what patches took some went to registers and [CLS]
        assert 0.5 < maps[0].value_RC.sum() < 1


def test_what_has_no_maps_is_named_with_its_path_and_the_reason(tmp_path: Path) -> None:
    exported(tmp_path / "d3", positions="rotary", terms=["mim"])  # mae: no text tower
    tuned = (str(tmp_path / "d3"), tmp_path / "tuned" / FINETUNED)
    resnet = (str(write_resnet(tmp_path / "resnet50.pth")), tmp_path / "resnet" / FINETUNED)
    for weights, file in (tuned, resnet):
        classifier, _ = build_classifier(
            weights, image_size=32, num_classes=3, drop_path=0.0, size="micro"
        )
        file.parent.mkdir()
        write_classifier(classifier, file, CLASSES, {"task": "disease"})
    rotary = "rotary positions, of which maps are drawn in a whole run with a text tower alone"
    for path, reason in (
        (tmp_path / "d3", rotary),
        (tmp_path / "d3" / "encoder.safetensors", rotary),
        (tuned[1], rotary),
        (resnet[1], "a ResNet, without attention"),
    ):
        with pytest.raises(ValueError, match=f"^{path}: {reason}") as error:
            request_maps(load(path), ("rollout", "cls"), (), ())
        assert "\n" not in str(error.value)
    for file in (tuned[1], resnet[1]):
        assert explain_commands(file, "run") == []


def write_resnet(path: Path) -> Path:
    torch.save(torchvision.models.resnet50().state_dict(), path)
    return path


def test_the_image_embedding_is_the_mean_of_the_patches_that_text_maps_compare(
    runs: dict[str, Path], photographs: tuple[str, ...]
) -> None:
    model = load(runs["whole"])
    question = request_maps(model, ("text",), PROMPTS, ())
    network: Any = model.network
    image_BCHW = preparation(32)(Image.open(photographs[0]))[None]
    with torch.no_grad():
        token_BND = network.bridge(network.encoder(image_BCHW, None, 1)[1])
        patch_ND = network.image_projection(token_BND)[0, 1:].double()
    maps = maps_of(model, image_BCHW, question)
    assert question.class_YD is not None
    for map_, class_D in zip(maps, question.class_YD.double(), strict=True):
        cosine_N = patch_ND @ class_D / patch_ND.norm(dim=1)
        assert map_.value_RC.ravel() == pytest.approx(cosine_N.numpy(), abs=1e-6)
        whole = (patch_ND.mean(dim=0) @ class_D) / patch_ND.mean(dim=0).norm()
        by_model = (model.encode_image([photographs[0]])[0].double() @ class_D).item()
        assert whole.item() == pytest.approx(by_model, abs=1e-6)


def test_an_overlay_a_map_a_sheet_and_a_table_are_written(
    runs: dict[str, Path], photographs: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    explain(
        ExplainConfig(
            weights=str(runs["whole"]), images=photographs[:1], prompts=PROMPTS, out=str(out)
        )
    )
    of_one = ["cls-heads", "cls", "relevance-drusens", "relevance-haemorrhages", "rollout"]
    of_one += ["text-drusens", "text-haemorrhages"]
    names = [f"eye1-{name}.png" for name in of_one]
    assert {path.name for path in out.iterdir()} == {*names, "contact_sheet.png", "maps.csv"}
    rows = read_maps(out)
    # rollout, the heads and their mean, and two prompts twice, of 16 patches each
    assert len(rows) == 16 * (1 + 5 + 4)
    heads = [r for r in rows if (r["image"], r["method"]) == ("eye1.png", "cls")]
    values = {about: [] for about in ["mean", *(f"head {n}" for n in range(1, 5))]}  # type: ignore[var-annotated]
    for row in heads:
        values[row["about"]].append(float(row["value"]))
    mean_N = np.mean([values[f"head {n}"] for n in range(1, 5)], axis=0)
    assert mean_N == pytest.approx(np.array(values["mean"]), rel=1e-4)
    last = next(r for r in rows if (r["method"], r["row"], r["column"]) == ("rollout", "3", "3"))
    box = center_crop_box(94, 64, 32)
    assert float(last["right"]) == pytest.approx(box.right, abs=0.01)
    assert float(last["bottom"]) == pytest.approx(box.bottom, abs=0.01)


def test_a_dataset_is_explained_on_its_test_split(
    runs: dict[str, Path], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    config = ExplainConfig(
        weights=str(runs["tuned"]),
        dataset=str(phantoms["heldout"]),
        count=2,
        methods=("relevance",),
        classes=("glaucoma",),
        out=str(tmp_path),
    )
    explain(config)
    keys = {row["image"] for row in read_maps(tmp_path)}
    assert len(keys) == 2
    assert all(int(key) % 5 == 4 for key in keys)  # the fixture's test samples


def test_methods_that_the_weights_cannot_serve_are_left_out_and_said_or_refused(
    runs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    methods = ("text", "relevance", "cls", "rollout")
    for kind, kept, lost in (
        ("whole", ("rollout", "cls", "relevance", "text"), []),
        ("tuned", ("rollout", "cls", "relevance"), ["text"]),
        ("encoder", ("rollout", "cls"), ["text", "relevance"]),
    ):
        caplog.clear()
        model = load(runs[kind])
        assert request_maps(model, methods, (), ()).methods == kept
        assert [record.getMessage().split()[0] for record in caplog.records] == lost
        if lost:
            with pytest.raises(ValueError, match="lack: no text tower; use rollout or cls"):
                request_maps(model, ("text",), (), ())
            with pytest.raises(ValueError, match="no text tower"):
                request_maps(model, ("rollout",), PROMPTS, ())
        with pytest.raises(ValueError, match="no class 'glaukoma'"):
            request_maps(model, ("relevance", "rollout"), (), ("glaukoma",))


def test_maps_of_the_patches_mean_are_not_drawn_for_what_compares_the_class_token(
    tmp_path: Path,
) -> None:
    exported(tmp_path / "run", pooling="cls")
    model = load(tmp_path / "run")
    assert request_maps(model, ("text", "relevance", "rollout"), (), ()).methods == ("rollout",)
    with pytest.raises(ValueError, match=r"lack: the mean of the patches .* use rollout or cls"):
        request_maps(model, ("text",), (), ())


def test_phantoms_are_pointed_at_and_the_shares_are_written(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    config = ExplainConfig(
        weights=str(runs["tuned"]), phantoms=30, methods=("rollout", "relevance"), out=str(tmp_path)
    )
    rows = play(config)
    (first,) = [
        found for method, name, found in rows if (method, name) == ("rollout", "any lesion")
    ]
    with_lesions = [draw(5_000_000 + n, 64) for n in range(30)]
    assert 10 < first.images <= sum(bool(phantom.lesions) for phantom in with_lesions)
    assert 0 < first.chance < 1
    assert {"relevance"} >= {method for method, _, _ in rows} - {"rollout"}
    assert len((tmp_path / TABLE).read_text().splitlines()) == 1 + len(rows)


def test_a_reinitialised_network_is_the_same_each_time_and_no_longer_the_trained_one(
    runs: dict[str, Path], photographs: tuple[str, ...]
) -> None:
    image_1CHW = preparation(32)(Image.open(photographs[0]))[None]
    found = []
    for again in (False, True, True):
        model = load(runs["tuned"])
        if again:
            reinitialise(model.network, 1)
        (only,) = maps_of(model, image_1CHW, request_maps(model, ("relevance",), (), ("normal",)))
        found.append(only.value_RC)
    trained, first, second = found
    assert (first == second).all()
    assert np.abs(np.corrcoef(trained.ravel(), first.ravel())[0, 1]) < 0.9


def test_mistakes_on_the_command_line_end_in_one_line(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, image = str(runs["whole"]), "--images=" + str(Path(__file__))
    for words, answer in (
        ([], "no weights given"),
        (["nothing", image], "nothing: no such run"),
        ([run], "give one of --images"),
        ([run, image, "--phantoms=50"], "--images and --phantoms given"),
        ([run, "--images=none.jpg"], "none.jpg: no such image"),
        ([run, image, "--methods=rolout"], "did you mean rollout?"),
        ([run, image, "--methods="], "no method given"),
        ([run, "--phantoms=3"], "too few"),
        ([run, image, "--untrained=1"], "goes with --phantoms"),
        ([run, image, "--promts=a"], "did you mean --prompts?"),
        ([run, "--dataset=/nowhere"], "/nowhere"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_explain("", words)
        said = capsys.readouterr().err
        assert stopped.value.code == 2
        assert answer in said
        assert said.count("\n") == 1
