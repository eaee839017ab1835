"""Fetch or load one need of a run, in a process of its own: the last line is the result.

python -m maskedclip.weights.prefetch_child fetch|load FIELD NAME
"""

import sys

_PLAIN = ("*.json", "vocab.txt", "merges.txt", "*.model")
_UNSAFE = {
    "model.text": ["pytorch_model*.bin"],
    "init_from": ["*.pth", "*.pt", "*.bin", "*.tar", "*.ckpt"],
}


def fetch(field: str, name: str) -> str:
    """Bring a repository's configuration, tokenizer and weights into the hub's cache."""
    from huggingface_hub import list_repo_files, snapshot_download

    files = list_repo_files(name)
    safe = any(file.endswith(".safetensors") and "/" not in file for file in files)
    # the same weights for other frameworks, and twice, are in most repositories
    weights = ["*.safetensors"] if safe else _UNSAFE[field]
    return snapshot_download(name, allow_patterns=[*_PLAIN, *weights])


def load(field: str, name: str) -> str:
    """Load it as a run does; return what it is."""
    if field == "model.text":
        from maskedclip.models.text import build_text

        tower, tokenize = build_text(name, projection=1, dropout=0.0, max_tokens=77)
        tokens = tokenize(["a retina"])[0].shape[1]
        count = sum(value.numel() for value in tower.bert.parameters())
        return f"{count:,} parameters, {tokens} tokens of 'a retina'"
    from maskedclip.models.pretrained import load_encoder

    return str(load_encoder(name)[1]).splitlines()[0]


if __name__ == "__main__":
    verb, field, name = sys.argv[1:]
    print(fetch(field, name) if verb == "fetch" else load(field, name))  # noqa: T201 - for the parent
