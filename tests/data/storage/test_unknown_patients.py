"""A patient "unknown" or "nan" is nobody, whoever wrote the shards."""

import json
from pathlib import Path

import pytest

from maskedclip.data.storage.sample_metadata import own_metadata, third_party_metadata
from maskedclip.data.storage.shard_writer import EMPTY_METADATA
from maskedclip.shards.checks.shard import read_metadata
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.patient_names import by_pattern
from maskedclip.shards.downloads.records import record_of


@pytest.mark.parametrize("word", ["unknown", "NaN", "N/A", "anonymous", "no_id", "-1"])
def test_it_is_nobody_in_our_format_in_third_party_tars_and_in_paths(
    word: str, tmp_path: Path
) -> None:
    facts = EMPTY_METADATA | {
        "dataset": "d", "source": "s", "patient": word, "labels": {}, "categories": [],
        "width": 9, "height": 9, "sha256": "0" * 64, "phash": "0" * 16,
    }  # fmt: skip
    content = json.dumps(facts).encode()
    assert own_metadata(content)["patient"] is None
    assert read_metadata(content).patient is None
    assert third_party_metadata("d", "k", [content, b"", b""])["patient"] is None
    assert record_of(read_card("eyepacs"), tmp_path, "a.jpg", {"patient": word}, {}).patient is None
    if word != "N/A":
        assert by_pattern([f"{word}_left.jpg"], "(.*)_left") == {}


def test_another_patient_stays() -> None:
    facts = EMPTY_METADATA | {"patient": "7", "labels": {}, "categories": []}
    facts |= {"dataset": "d", "source": "s", "width": 9, "height": 9, "sha256": "", "phash": ""}
    assert own_metadata(json.dumps(facts).encode())["patient"] == "7"
