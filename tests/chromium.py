"""The mark of tests that need a browser."""

import pytest

from tools.benches.browser import chromium

needs_chromium = pytest.mark.skipif(
    chromium() is None, reason="no chromium: apt-get install chromium"
)
