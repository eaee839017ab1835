"""The report in TensorBoard: Figure 2 and Table 1 in an event file of the report's directory."""

import io
from pathlib import Path

from PIL import Image

from maskedclip.engine.whole_events import image, text, write_whole_events
from maskedclip.report.pages.charts import RenderedFigure


def show_report(out: Path, figure: RenderedFigure | None, table: str) -> None:
    """Write the event file, where it is not there; `table` is Markdown."""
    inputs = b"\0".join([table.encode(), figure.words.encode() + figure.png if figure else b""])
    drawn = [text("report/table 1", table, "as table1.md")]
    if figure is not None:
        with Image.open(io.BytesIO(figure.png)) as opened:
            size = opened.size
        drawn.append(image("report/figure 2", figure.png, size, figure.words))
    write_whole_events(out, "report", inputs, lambda: drawn)
