import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from maskedclip.data.captions import prompts
from maskedclip.data.expert_dictionary import EXPERT
from maskedclip.models.text import VOCABULARY, build_text, check_text

ROOT = Path(__file__).parents[2]


def builtin():
    torch.manual_seed(0)
    return build_text("builtin", projection=16, dropout=0.0, max_tokens=77)


def test_a_caption_is_read_word_by_word():
    _, tokenize = builtin()
    token_AL, token_mask_AL = tokenize(["A fundus photograph of drusens", "Glaucoma"])
    words = VOCABULARY.read_text().splitlines()
    assert [words[i] for i in token_AL[0]] == [
        "[CLS]", "a", "fundus", "photograph", "of", "drusens", "[SEP]",
    ]  # fmt: skip
    assert [words[i] for i in token_AL[1]][:3] == ["[CLS]", "glaucoma", "[SEP]"]
    assert token_mask_AL.tolist() == [[1] * 7, [1] * 3 + [0] * 4]


def test_no_caption_of_the_expert_dictionary_has_an_unknown_word():
    _, tokenize = builtin()
    texts = [text for category in EXPERT for text in prompts(category)]
    unknown = VOCABULARY.read_text().splitlines().index("[UNK]")
    assert not (tokenize(texts)[0] == unknown).any()


def test_a_word_outside_the_dictionary_is_spelt():
    _, tokenize = builtin()
    token_AL, _ = tokenize(["toxoplasmosis"])
    assert 1 not in token_AL
    assert token_AL.shape[1] > 4


def test_different_captions_have_different_features():
    tower, tokenize = builtin()
    text_AD = tower(*tokenize([f"A fundus photograph of {name}" for name in sorted(EXPERT)[:20]]))
    cosine_AA = text_AD @ text_AD.T
    assert (cosine_AA - torch.eye(20)).max() < 0.999


def test_a_long_caption_is_cut():
    _, tokenize = build_text("builtin", projection=16, dropout=0.0, max_tokens=8)
    assert tokenize(["glaucoma " * 50])[0].shape == (1, 8)


def test_the_vocabulary_is_what_its_tool_writes(tmp_path):
    code = (
        "import runpy, pathlib; found = runpy.run_path('tools/make_vocabulary.py')['vocabulary']();"
        f"pathlib.Path({str(tmp_path / 'v')!r}).write_text('\\n'.join(found) + '\\n')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert (tmp_path / "v").read_text() == VOCABULARY.read_text()


def test_a_folder_with_a_bert_serves_as_the_text_tower(tmp_path):
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertModel(BertConfig(vocab_size=12, hidden_size=16, **shape), add_pooling_layer=False)
    bert.save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "retina", "with", "drusen"]
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "x", "y", "z"]) + "\n")
    check_text(str(tmp_path))
    tower, tokenize = build_text(str(tmp_path), projection=8, dropout=0.0, max_tokens=77)
    token_AL, _ = tokenize(["a retina with drusen"])
    assert token_AL.tolist() == [[2, 5, 6, 7, 8, 3]]
    ours, theirs = tower.bert.state_dict(), bert.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("check", [check_text, lambda name: build_text(name, **SETTINGS)])
def test_a_tower_that_is_not_here_is_said_with_the_command_that_fetches_it(check, tmp_path):
    with pytest.raises(ValueError, match="hf download nobody/no-bert") as error:
        check("nobody/no-bert")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no BERT in this folder"):
        check(str(tmp_path))


SETTINGS = {"projection": 8, "dropout": 0.0, "max_tokens": 77}


def test_the_tower_is_berts_own_mean_over_tokens():
    tower, tokenize = builtin()
    token_AL, mask_AL = tokenize(["glaucoma", "a retina with a handful of microaneurysms"])
    with torch.no_grad():
        hidden_ALD = tower.bert(token_AL, attention_mask=mask_AL).last_hidden_state
        mean_AD = torch.stack(
            [x[m.bool()].mean(0) for x, m in zip(hidden_ALD, mask_AL, strict=True)]
        )
        expected = torch.nn.functional.normalize(tower.projection(mean_AD), dim=-1)
        torch.testing.assert_close(tower(token_AL, mask_AL), expected)
