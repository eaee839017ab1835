"""Headless Chromium over its debugging pipe (DevTools protocol): pages, their errors, pictures."""

import base64
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

PROGRAM = "chromium"
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
# errors of the console that are none of the page: a favicon
_NO_ERRORS = ("favicon.ico",)


def chromium() -> str | None:
    """Return Debian's chromium, None where it is not installed."""
    return shutil.which(PROGRAM)


def wait_for_server(port: int, seconds: float = 120.0) -> None:
    """Return when a server of this machine answers; RuntimeError where it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"no server on port {port} after {seconds:g} s")


class Browser:
    """One tab; `errors` are what its console said since it was opened."""

    def __init__(self, width: int = 1400, height: int = 1000, *, dark: bool = False) -> None:
        """Start Chromium; its commands go to descriptor 3, its answers come from 4.

        Its page has this size in pixels, a phone's too, and this machine alone for a network.
        """
        self._profile = tempfile.TemporaryDirectory(
            prefix="chromium-", ignore_cleanup_errors=True
        )  # its other processes write for a moment after it was killed
        program = chromium()
        if program is None:
            raise RuntimeError("no chromium; install it: apt-get install chromium")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        line = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        where = f"--user-data-dir={self._profile.name}"
        self._process = subprocess.Popen(
            ["bash", "-c", line, program, *_OPTIONS, where],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.pid = self._process.pid
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._buffer, self._session = 0, b"", ""
        self.errors: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result; RuntimeError where it has none."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60.0)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, address: str) -> None:
        self.errors.clear()
        self.ask("Page.navigate", url=address)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression of the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["text"])
        return found["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """Return the first value of an expression that is true; RuntimeError where none comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(script):
                return value
            time.sleep(0.02)
        raise RuntimeError(f"not after {seconds:g} s: {script}")

    def picture(self, path: Path) -> None:
        """Write a PNG of what the window shows."""
        shot = self.ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self, seconds: float) -> dict[str, Any]:
        """Return the next message; what the console says is kept."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], seconds)
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError(f"{PROGRAM} does not answer")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._keep_error(message.get("method", ""), message.get("params", {}))
        return message

    def _keep_error(self, method: str, facts: dict[str, Any]) -> None:
        said = ""
        if method == "Runtime.exceptionThrown":
            details = facts["exceptionDetails"]
            said = details.get("exception", {}).get("description") or details["text"]
        elif method == "Runtime.consoleAPICalled" and facts["type"] == "error":
            said = " ".join(str(one.get("value", one.get("description"))) for one in facts["args"])
        elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
            said = f"{facts['entry']['text']} {facts['entry'].get('url', '')}"
        if said and not any(name in said for name in _NO_ERRORS):
            self.errors.append(said)
