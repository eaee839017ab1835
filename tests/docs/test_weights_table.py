"""docs/weights.md has a row of each card of models/cards, with what the card says."""

from pathlib import Path

from maskedclip.models.checkpoints.formats import WeightFormat, formats

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
COLOURS = {"imagenet": "ImageNet", "clip": "CLIP", "half": "0.5", "none": "/255 only"}


def row(card: str, one: WeightFormat) -> str:
    shown = one.preparation
    size = f"{shown.image_size} px" if shown.image_size else "its positions'"
    fit = "squashed" if shown.squash else "black borders" if shown.whole else "middle"
    colours = COLOURS.get(shown.colours, "its own")
    pool = "[CLS]" if one.pool == "cls" else "mean"
    text = (one.text.language or "English") if one.text else ""
    saw = ", ".join((*one.trained_on, *one.saw_besides))
    unsure = "; ".join(one.unverified)
    cells = (
        f"`{card}`",
        one.name,
        f"{size}, {fit}, {colours}",
        pool,
        text,
        saw,
        one.licence,
        unsure,
    )
    return "| " + " | ".join(cells) + " |"


def test_the_table_of_models_says_what_their_cards_say() -> None:
    lines = PAGE.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("| card | model |")) + 2
    table = lines[first : lines.index("", first)]
    assert table == [row(card, one) for card, one in formats().items()]
