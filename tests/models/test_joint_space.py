"""Zero-shot of third-party weights gives what their own code gives, by the names it has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
)

import maskedclip
from maskedclip.data.captions import class_categories
from maskedclip.data.chinese_words import CHINESE as CHINESE_WORDS
from maskedclip.data.chinese_words import in_chinese
from maskedclip.data.expert_dictionary import EXPERT
from maskedclip.models.checkpoints.files import Weights, read_checkpoint
from maskedclip.models.checkpoints.formats import formats
from maskedclip.models.joint_space import JointSpace, joint_space
from maskedclip.models.pretrained import recognise
from tests.models.checkpoints.test_architectures import SIZE, WIDTH, drawn, renamed, written
from tests.models.checkpoints.test_weight_cards import CLIPS, IMAGENET, retizero

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENGLISH = [
    *SPECIAL, "a", "fundus", "photograph", "of", "glaucoma", "normal", "macular", "hole",
    "no", "mild", "moderate", "severe", "proliferative", "diabetic", "retinopathy",
]  # fmt: skip
CHINESE = [*SPECIAL, *"青光眼正常黄斑裂孔的照片底"]
JOINT = 32


class Theirs(NamedTuple):
    """A file's content, and its own code: unit rows of images and of texts, and the scale."""

    content: dict[str, Any]
    image: Callable[[Tensor], Tensor]  # of normalised images
    text: Callable[[list[str]], Tensor]
    scale: float


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(ENGLISH) + "\n")
    return tmp_path


def bert(words: list[str]) -> BertModel:
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=3, num_attention_heads=1,
        intermediate_size=128, max_position_embeddings=40,
    )  # fmt: skip
    network = drawn(BertModel(config))
    assert isinstance(network, BertModel)
    return network


def tokens(words: list[str], texts: list[str]) -> dict[str, Tensor]:
    tokenizer: Any = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def flair_text(width: int) -> tuple[dict[str, Tensor], Callable[[list[str]], Tensor], Tensor]:
    """FLAIR's text tower as its model.py has it, and its projection of images `width` wide."""
    network, generator = bert(ENGLISH), torch.Generator().manual_seed(3)
    image_ED, text_ED = (torch.randn(JOINT, n, generator=generator) for n in (width, 64))

    def text(texts: list[str]) -> Tensor:
        coded = tokens(ENGLISH, [f"A fundus photograph of {text}" for text in texts])
        states = network(coded["input_ids"], coded["attention_mask"], output_hidden_states=True)
        stacked = torch.stack([states["hidden_states"][n] for n in (1, 2, -1)])
        embed = stacked.permute(1, 0, 2, 3).mean(2).mean(1)
        embed = embed / embed.norm(dim=-1, keepdim=True)
        embed = embed @ text_ED.T
        return embed / embed.norm(dim=-1, keepdim=True)

    tensors = renamed(network, before="text_model.model.") | {
        "text_model.model.embeddings.position_ids": torch.arange(40)[None],
        "text_model.projection_head_text.projection.weight": text_ED,
        "vision_model.projection_head_vision.projection.weight": image_ED,
        "logit_scale": torch.tensor(3.0),
    }
    return tensors, text, image_ED


def retizero_whole() -> Theirs:
    content, image_tokens = retizero()
    tensors, text, image_ED = flair_text(WIDTH)

    def image(x: Tensor) -> Tensor:
        return F.normalize(F.normalize(image_tokens(x)[:, 0], dim=-1) @ image_ED.T, dim=-1)

    content = {name: t for name, t in content.items() if "lora_vit" in name}
    return Theirs(content | tensors, image, text, torch.tensor(3.0).exp().item())


def clip_whole(quick: bool) -> Theirs:
    """open_clip's own model, whose names are OpenAI's."""
    model = open_clip.model.CLIP(
        embed_dim=JOINT,
        vision_cfg={"layers": 2, "width": WIDTH, "patch_size": 32, "image_size": SIZE},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2},
        quick_gelu=quick,
    )
    drawn(model)
    model.logit_scale.data.fill_(2.0)
    read = open_clip.tokenizer.SimpleTokenizer()
    return Theirs(
        dict(model.state_dict()),
        lambda x: model.encode_image(x, normalize=True),
        lambda texts: model.encode_text(read(texts, context_length=77), normalize=True),
        model.logit_scale.exp().item(),
    )


def transformers_clip() -> Theirs:
    """As the hub has OpenAI's: transformers' names, projections the other way round."""
    towers = {"num_hidden_layers": 2, "projection_dim": JOINT}
    vision = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 4 * WIDTH}
    vision |= {"image_size": SIZE, "patch_size": 32}
    text = {"hidden_size": 16, "num_attention_heads": 1, "intermediate_size": 64}
    text |= {"vocab_size": 49408, "eos_token_id": 49407}
    config = CLIPConfig(
        vision_config=vision | towers, text_config=text | towers, projection_dim=JOINT
    )
    model, read = CLIPModel(config), open_clip.tokenizer.SimpleTokenizer()
    drawn(model)
    model.logit_scale.data.fill_(2.0)

    def rows(texts: list[str]) -> Tensor:
        token_BL = read(texts, context_length=77)
        state_BD = model.text_model(token_BL).pooler_output
        return F.normalize(model.text_projection(state_BD), dim=-1)

    def image(x: Tensor) -> Tensor:
        return F.normalize(model.visual_projection(model.vision_model(x).pooler_output), dim=-1)

    content = dict(model.state_dict()) | {"text_model.embeddings.position_ids": torch.arange(77)}
    return Theirs(content, image, rows, model.logit_scale.exp().item())


def eyeclip_whole() -> Theirs:
    theirs = clip_whole(quick=True)
    decoder = {"visual.decoder.decoder_pos_embed": torch.ones(1, 50, 512)}
    content = {"epoch": 3, "model_state_dict": theirs.content | decoder}
    return theirs._replace(content=content, scale=100.0)


def chinese_tower() -> tuple[dict[str, Tensor], Any, BertModel]:
    tower = drawn(
        open_clip.model.VisionTransformer(
            image_size=SIZE, patch_size=16, width=WIDTH, layers=2, heads=2, mlp_ratio=4.0,
            output_dim=JOINT, act_layer=open_clip.transformer.QuickGELU,
        )
    )  # fmt: skip
    text = bert(CHINESE)
    tensors = renamed(tower, before="module.visual.") | renamed(text, before="module.bert.")
    return {name: t for name, t in tensors.items() if "pooler" not in name}, tower, text


def vilref_whole() -> Theirs:
    tensors, tower, text = chinese_tower()
    map_DE = torch.randn(64, JOINT, generator=torch.Generator().manual_seed(3))
    tensors |= {"module.text_projection": map_DE, "module.logit_scale": torch.tensor(2.0)}

    def rows(texts: list[str]) -> Tensor:
        coded = tokens(CHINESE, texts)
        hidden_BLD = text(coded["input_ids"], coded["attention_mask"])[0]
        return F.normalize(hidden_BLD[:, 0] @ map_DE, dim=-1)

    return Theirs({"state_dict": tensors}, lambda x: F.normalize(tower(x), dim=-1), rows, 100.0)


def transformers_chinese_clip() -> Theirs:
    """As the hub has OFA-Sys's: transformers' own model."""
    vision = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 4 * WIDTH}
    text = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 128}
    text |= {"vocab_size": len(CHINESE), "max_position_embeddings": 60}
    config = ChineseCLIPConfig(
        vision_config=vision | {"num_hidden_layers": 2, "image_size": SIZE, "patch_size": 16},
        text_config=text | {"num_hidden_layers": 2},
        projection_dim=JOINT,
    )
    model = ChineseCLIPModel(config)
    drawn(model)

    def rows(texts: list[str]) -> Tensor:
        state_BLD = model.text_model(**tokens(CHINESE, texts)).last_hidden_state
        return F.normalize(model.text_projection(state_BLD[:, 0]), dim=-1)

    def image(x: Tensor) -> Tensor:
        return F.normalize(model.visual_projection(model.vision_model(x).pooler_output), dim=-1)

    return Theirs(dict(model.state_dict()), image, rows, 100.0)


def ret_clip_whole() -> Theirs:
    tensors, tower, text = chinese_tower()
    head = drawn(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, JOINT)))
    left = drawn(nn.Linear(JOINT, JOINT, bias=False))
    tensors |= renamed(head, before="module.text_projection_left.")
    tensors |= renamed(left, before="module.left_feature_mapping.")
    tensors["module.logit_scale_left"] = torch.tensor(2.5)

    def rows(texts: list[str]) -> Tensor:
        coded = tokens(CHINESE, texts)
        hidden_BLD = text(coded["input_ids"], coded["attention_mask"])[0]
        return F.normalize(head(hidden_BLD[:, 0]), dim=-1)

    scale = torch.tensor(2.5).exp().item()
    return Theirs(
        {"state_dict": tensors}, lambda x: F.normalize(left(tower(x)), dim=-1), rows, scale
    )


MODELS: dict[str, tuple[Callable[[], Theirs], str, Any, list[str]]] = {
    "RetiZero": (retizero_whole, "RetiZero.pth", IMAGENET, ["glaucoma", "normal"]),
    "EyeCLIP": (eyeclip_whole, "eyeclip_visual.pt", CLIPS, ["glaucoma", "normal"]),
    "CLIP": (lambda: clip_whole(quick=False), "open_clip_pytorch_model.bin", CLIPS, ["glaucoma"]),
    "a CLIP of transformers": (
        transformers_clip,
        "openai/clip-tiny/pytorch_model.bin",
        CLIPS,
        ["glaucoma", "normal"],
    ),
    "Chinese-CLIP": (vilref_whole, "clip_cn_vit-b-16.pt", CLIPS, ["青光眼", "正常", "黄斑裂孔"]),
    "Chinese-CLIP of transformers": (
        transformers_chinese_clip,
        "pytorch_model.bin",
        CLIPS,
        ["青光眼", "正常", "黄斑裂孔"],
    ),
    "ViLReF": (vilref_whole, "vilref.pt", CLIPS, ["青光眼", "正常", "黄斑裂孔"]),
    "RET-CLIP": (ret_clip_whole, "ret-clip.pt", CLIPS, ["青光眼", "正常", "黄斑裂孔"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_features_and_logits_of_images_and_prompts_are_those_of_its_own_code(
    name: str, folder: Path
) -> None:
    make, file, (mean, std), prompts = MODELS[name]
    theirs = make()
    if "正常" in prompts:
        (folder / "vocab.txt").write_text("\n".join(CHINESE) + "\n")
    path = written(folder, file, theirs.content)
    model = maskedclip.load(path)
    assert model.reads_text
    form = recognise(read_checkpoint(path)).info.format
    assert form in name or name == "a CLIP of transformers"
    value_BCHW = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    mean_C11, std_C11 = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    captions = [model.prompts(prompt)[0] for prompt in prompts]
    asked = captions if "CLIP" in name and "RET" not in name else prompts
    with torch.no_grad():
        image_BD = theirs.image((value_BCHW / 255 - mean_C11) / std_C11)
        text_YD = torch.cat([theirs.text([prompt]) for prompt in asked])  # a class at a time
    assert (model.encode_image(value_BCHW) - image_BD).abs().max() <= 1e-5
    rows_YD = torch.cat([model.encode_text([caption]) for caption in captions])
    assert (rows_YD - text_YD).abs().max() <= 1e-5
    logit_BY = theirs.scale * image_BD @ text_YD.T
    found_BY = model.classify(value_BCHW, prompts)
    assert (found_BY - logit_BY.softmax(dim=-1)).abs().max() <= 1e-5
    assert model.joint is not None
    ours_BY = model.joint.scale_1 * model.encode_image(value_BCHW) @ rows_YD.T
    assert (ours_BY - logit_BY).abs().max() <= 1e-5 * theirs.scale


def test_the_activation_that_a_configuration_beside_the_file_states_is_that_of_both_towers(
    folder: Path,
) -> None:
    theirs = clip_whole(quick=True)
    path = written(folder, "open_clip_pytorch_model.bin", theirs.content)
    value_BCHW = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    captions = ["A fundus photograph of glaucoma", "A fundus photograph of a normal eye"]
    found = []
    for quick in ("false", "true"):
        (folder / "open_clip_config.json").write_text(f'{{"model_cfg": {{"quick_gelu": {quick}}}}}')
        model = maskedclip.load(path)
        found.append((model.encode_image(value_BCHW), model.encode_text(captions)))
    mean_C11, std_C11 = (torch.tensor(values).view(3, 1, 1) for values in CLIPS)
    with torch.no_grad():
        expected = theirs.image((value_BCHW / 255 - mean_C11) / std_C11), theirs.text(captions)
    for other, ours, row in zip(*found, expected, strict=True):
        assert (ours - row).abs().max() <= 1e-5
        assert (other - row).abs().max() > 1e-4


def of_tensors(card: str, tensors: dict[str, Tensor], folder: Path) -> JointSpace | None:
    return joint_space(Weights(card, folder / "weights.pth", tensors, {}, {}), formats()[card])


@pytest.mark.parametrize("card", ["flair", "keepfit"])
def test_flair_projects_unit_rows_and_means_three_layers_with_their_padding(
    card: str, folder: Path
) -> None:
    tensors, text, image_ED = flair_text(2048)
    joint = of_tensors(card, tensors, folder)
    assert joint is not None
    pooled_BD = torch.randn(2, 2048, generator=torch.Generator().manual_seed(1))
    image_BD = F.normalize(F.normalize(pooled_BD, dim=-1) @ image_ED.T, dim=-1)
    names = ["glaucoma", "macular hole"]  # of two lengths: the shorter is padded
    captions = [joint.card.prompts(name)[0] for name in names]
    with torch.no_grad():
        assert (joint.text_rows(captions) - text(names)).abs().max() <= 1e-5
        alone_YD = torch.cat([joint.text_rows([caption]) for caption in captions])
    assert (alone_YD - text(names)).abs().max() > 1e-4
    assert (joint.image_rows(pooled_BD) - image_BD).abs().max() <= 1e-5
    assert joint.scale_1.item() == pytest.approx(torch.tensor(3.0).exp().item())
    assert not joint.card.unit_classes


def test_a_text_tower_without_its_words_says_how_to_get_them(folder: Path) -> None:
    joint = of_tensors("flair", flair_text(2048)[0], folder)
    assert joint is not None
    (folder / "vocab.txt").write_text("\n".join(ENGLISH[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"vocab.txt: 19 words, and the text tower .* has 20; put"):
        joint.text_rows(["glaucoma"])
    (folder / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"not on this machine; .*hf download .*BERT vocab\.txt"):
        joint.text_rows(["glaucoma"])


def test_a_text_tower_with_a_missing_part_is_refused_by_its_name(folder: Path) -> None:
    tensors = flair_text(2048)[0]
    del tensors["text_model.projection_head_text.projection.weight"]
    with pytest.raises(
        ValueError, match=r"no text_model\.projection_head_text\.projection\.weight"
    ):
        of_tensors("flair", tensors, folder)
    tensors = flair_text(2048)[0]
    del tensors["text_model.model.encoder.layer.1.output.dense.bias"]
    with pytest.raises(ValueError, match=r"its text tower is not FLAIR's \(.*layer\.1\.output"):
        of_tensors("flair", tensors, folder)


def test_weights_of_the_images_alone_have_no_text_tower(folder: Path) -> None:
    tensors = {n: t for n, t in flair_text(2048)[0].items() if n.startswith("vision_model")}
    assert of_tensors("flair", tensors, folder) is None
    assert of_tensors("mae", {}, folder) is None


def test_a_chinese_text_tower_refuses_other_prompts(folder: Path) -> None:
    tensors = vilref_whole().content["state_dict"]
    joint = of_tensors("vilref", tensors, folder)
    assert joint is not None
    with pytest.raises(ValueError, match=r"'glaucoma': this text tower reads Chinese"):
        joint.text_rows(["glaucoma"])


def test_a_chinese_text_tower_is_asked_for_english_categories_in_chinese(folder: Path) -> None:
    theirs = vilref_whole()
    (folder / "vocab.txt").write_text("\n".join(CHINESE) + "\n")
    model = maskedclip.load(written(folder, "vilref.pt", theirs.content))
    assert model.prompts("glaucoma") == ["青光眼"]
    value_BCHW = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    found, expected = (
        model.classify(value_BCHW, prompts)
        for prompts in (["glaucoma", "normal"], ["青光眼", "正常眼底"])
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"'a green dot': this text tower reads Chinese"):
        model.classify(value_BCHW, ["glaucoma", "a green dot"])


def test_each_category_of_the_expert_dictionary_has_chinese_words_of_its_own() -> None:
    grades = class_categories("diabetic_retinopathy", "01234")
    risks = class_categories("macular_edema", "012")
    assert {*EXPERT, *grades, *risks} <= set(CHINESE_WORDS)
    assert len(set(CHINESE_WORDS.values())) == len(CHINESE_WORDS)
    assert all(in_chinese(words) == words for words in CHINESE_WORDS.values())


def test_a_text_tower_that_tells_nothing_apart_is_refused(folder: Path) -> None:
    theirs = eyeclip_whole()
    theirs.content["model_state_dict"]["text_projection"].zero_()[0] = 1.0
    theirs.content["model_state_dict"]["ln_final.weight"].zero_()
    model = maskedclip.load(written(folder, "eyeclip_visual.pt", theirs.content))
    image_BCHW = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"the same row for all 2 classes .* use its images alone"):
        model.classify(image_BCHW, ["glaucoma", "normal"])
    assert model.encode_image(image_BCHW).shape == (1, JOINT)


@pytest.mark.slow
def test_flair_at_its_size_answers_as_its_own_code_does(tmp_path: Path) -> None:
    """ResNet-50 at 512 px and a BERT of 12 layers, under the names of its state dict."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet50()
    resnet.fc = nn.Identity()
    words = [*ENGLISH, *(f"word{number}" for number in range(28996 - len(ENGLISH)))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    config = BertConfig(vocab_size=len(words))
    text, image_ED, text_ED = (
        BertModel(config).eval(),
        torch.randn(512, 2048),
        torch.randn(512, 768),
    )
    tensors = renamed(resnet.eval(), before="vision_model.model.") | {
        **renamed(text, before="text_model.model."),
        "vision_model.projection_head_vision.projection.weight": image_ED,
        "text_model.projection_head_text.projection.weight": text_ED,
        "logit_scale": torch.tensor(4.7),  # above ln 100, which FLAIR clamps
    }
    model = maskedclip.load(written(tmp_path, "flair_resnet.pth", tensors))
    value_BCHW = torch.randint(0, 256, (2, 3, 512, 512), dtype=torch.uint8)
    names = ["glaucoma", "macular hole"]
    rows = []
    with torch.no_grad():
        image_BD = F.normalize(F.normalize(resnet(value_BCHW / 255), dim=-1) @ image_ED.T, dim=-1)
        for name in names:
            coded = tokens(words, [f"A fundus photograph of {name}"])
            states = text(**coded, output_hidden_states=True)["hidden_states"]
            mean_BD = torch.stack([states[n] for n in (1, 2, -1)]).mean(dim=2).mean(dim=0)
            rows.append(F.normalize(F.normalize(mean_BD, dim=-1) @ text_ED.T, dim=-1))
        logit_BY = torch.tensor(4.6052).exp() * image_BD @ torch.cat(rows).T
    found_BY = model.classify(value_BCHW, names)
    assert (found_BY - logit_BY.softmax(dim=-1)).abs().max() <= 1e-5
