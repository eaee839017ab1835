"""Heat lies over the pixels of its patch, and the photograph stays visible beneath it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.explain.overlays import (
    CropBox,
    enlarged,
    heat,
    overlay,
    wrapped,
    write_grid,
    write_overlay,
)


def hot(row: int, column: int) -> np.ndarray:
    map_RC = np.full((4, 4), 0.1)
    map_RC[row, column] = 0.3
    return map_RC


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (3, 2)])
def test_a_hot_patch_is_drawn_over_its_own_pixels(row: int, column: int) -> None:
    grey_HWC = np.full((64, 64, 3), 90, np.uint8)
    painted_HWC = overlay(grey_HWC, hot(row, column)).astype(int)
    changed_HW = np.abs(painted_HWC - 90).sum(axis=2)
    of_patches_RC = changed_HW.reshape(4, 16, 4, 16).mean(axis=(1, 3))
    assert np.unravel_index(of_patches_RC.argmax(), (4, 4)) == (row, column)
    middle = changed_HW[16 * row + 8, 16 * column + 8]
    assert middle > 0.8 * changed_HW.max()
    # heat fades to nothing at the centres of the next patches
    far_HW = changed_HW.copy()
    rows, columns = (slice(max(0, 16 * n - 8), 16 * n + 24) for n in (row, column))
    far_HW[rows, columns] = 0
    assert far_HW.max() == 0


def test_a_map_is_enlarged_about_the_centres_of_its_patches() -> None:
    value_HW = enlarged(np.arange(16.0).reshape(4, 4), 28)  # patches of 7 pixels
    for row in range(4):
        for column in range(4):
            assert value_HW[7 * row + 3, 7 * column + 3] == pytest.approx(4 * row + column)


def test_the_photograph_stays_visible_beneath_the_hottest_patch() -> None:
    stripes_HWC = np.zeros((64, 64, 3), np.uint8)
    stripes_HWC[:, ::2] = 255
    painted_HWC = overlay(stripes_HWC, hot(1, 1)).astype(int)
    dark, bright = painted_HWC[24, 24], painted_HWC[24, 25]
    assert np.abs(dark - bright).max() >= 60


def test_a_map_that_is_the_same_everywhere_paints_nothing() -> None:
    grey_HWC = np.full((64, 64, 3), 90, np.uint8)
    assert heat(np.full((4, 4), 0.2)).max() == 0
    assert (overlay(grey_HWC, np.full((4, 4), 0.2)) == grey_HWC).all()


def test_dollars_in_a_name_are_no_formula(tmp_path: Path) -> None:
    seen_HWC, name = np.full((64, 64, 3), 90, np.uint8), r"a$\b$.jpg"
    write_overlay(
        tmp_path / "one.png", seen_HWC, CropBox(0, 0, 64, 64), seen_HWC, hot(2, 1),
        title=name, caption=name, unit=name,
    )  # fmt: skip
    write_grid(tmp_path / "grid.png", name, [(name, seen_HWC, [(name, hot(2, 1))])])
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_overlays_and_grids_are_written_whole(tmp_path: Path) -> None:
    seen_HWC = np.full((64, 64, 3), 90, np.uint8)
    for map_RC in (hot(2, 1), np.zeros((4, 4))):
        write_overlay(
            tmp_path / "one.png", seen_HWC, CropBox(4, 4, 60, 60), seen_HWC, map_RC,
            title="text: drusens 31%", caption="eye.jpg", unit="cosine",
        )  # fmt: skip
        write_grid(tmp_path / "grid.png", "title", [("eye", seen_HWC, [("a", map_RC)])])
        for name in ("one.png", "grid.png"):
            with Image.open(tmp_path / name) as picture:
                picture.load()
                assert picture.width > 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "one.png"]


def test_names_above_a_picture_of_the_sheet_are_wrapped_and_keep_every_word() -> None:
    prompt = "hard exudates near the macula, and haemorrhages in all four quadrants 62%"
    lines = wrapped(f"relevance\n{prompt}").split("\n")
    assert lines[0] == "relevance"
    assert " ".join(lines[1:]) == prompt
    assert max(map(len, lines)) <= 38
    assert "".join(wrapped("a" * 90).split("\n")) == "a" * 90


def test_a_sheet_grows_with_its_names_and_has_its_legend_below(tmp_path: Path) -> None:
    seen_HWC = np.full((64, 64, 3), 90, np.uint8)
    high = []
    for name in ("cls", "relevance\n" + "many words " * 20):
        write_grid(tmp_path / "sheet.png", "demo", [("as seen", seen_HWC, [(name, hot(0, 0))])])
        pixel_HWC = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
        high.append(len(pixel_HWC))
        assert (pixel_HWC[-110:] < 100).any()  # words and colours, on white
    assert high[1] > high[0]
