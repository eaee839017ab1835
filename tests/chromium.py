"""A page in headless Chromium: what it becomes, what it complains of, what it looks like."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")
_NARROWEST = 500  # pixels: a window is no smaller, so that a phone is a frame in one


class Opened(NamedTuple):
    """A page after its scripts ran."""

    document: str
    complaints: list[str]  # what stands in the console


def opened(page: Path, *, script: str = "", dark: bool = False, width: int = 1300) -> Opened:
    """Open a page of this machine without a network.

    Args:
        script: what is done on the page once it is there, as a reader would by hand.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = page.resolve().as_uri()
        if script:  # on a copy, whose policy lets it run
            text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text("utf-8"))
            copy = Path(folder) / "page.html"
            copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
            address = copy.as_uri()
        done = _run(folder, address, width, dark, "--dump-dom")
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Opened(done.stdout, complaints)


def screenshot(
    page: Path, picture: Path, *, dark: bool = False, width: int = 1300, height: int = 1500
) -> None:
    """Write what a page looks like into a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        address = page.resolve().as_uri()
        if width < _NARROWEST:
            frame = Path(folder) / "frame.html"
            style = f"border:0;width:{width}px;height:{height}px"
            frame.write_text(f"<body style='margin:0'><iframe style='{style}' src='{address}'>")
            address = frame.as_uri()
        size = f"--window-size={max(width, _NARROWEST)},{height}"
        _run(folder, address, width, dark, f"--screenshot={picture}", "--hide-scrollbars", size)


def _run(
    folder: str, address: str, width: int, dark: bool, *what: str
) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    scheme = "--blink-settings=preferredColorScheme=0" if dark else ""
    words = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}/profile",
        f"--window-size={width},1500", "--virtual-time-budget=3000", scheme, *what, address,
    ]  # fmt: skip
    return subprocess.run(
        [word for word in words if word], capture_output=True, text=True, timeout=120, check=True
    )
