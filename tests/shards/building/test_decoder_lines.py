import io
import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.shards.building.decoder_lines import decoder_lines
from maskedclip.shards.building.prepare_sample import Rejected, prepare_photograph
from maskedclip.shards.downloads.records import Record

TIFF = b"II*\0"


def test_what_is_printed_below_python_is_caught_for_a_tiff_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with decoder_lines(TIFF) as lines:
        os.write(2, b"LZWDecode:  not enough\n\nLZWDecode: not enough\n")
        warnings.warn("corrupt", UserWarning, stacklevel=1)
    assert lines == ["LZWDecode: not enough", "corrupt"]
    assert capfd.readouterr().err == ""
    with decoder_lines(b"\xff\xd8\xff") as lines:
        os.write(2, b"of others\n")
    assert (lines, capfd.readouterr().err) == ([], "of others\n")


def test_libtiffs_own_lines_stand_behind_the_files_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = io.BytesIO()
    noise_HWC = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    Image.fromarray(noise_HWC).save(content, "TIFF", compression="tiff_lzw")
    damaged = bytearray(content.getvalue())
    damaged[2000:2300] = bytes(300)
    (tmp_path / "eye.tif").write_bytes(damaged)
    prepare = partial(
        prepare_photograph, name="toy", size=64, quality=90, key=b"k", anonymise=False
    )
    sample = prepare(Record("eye.tif", tmp_path / "eye.tif"))
    assert isinstance(sample, Rejected)
    assert sample.source == "eye.tif"
    assert "LZWDecode: Not enough data" in sample.reason
    assert capfd.readouterr().err == ""
