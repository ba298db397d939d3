"""Drive a headless Chromium through pipes: https://chromedevtools.github.io/devtools-protocol/."""

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Chromium reads commands from file descriptor 3 and writes to 4, which pytest itself uses.
_LAUNCH = (
    "import os, sys; fds = [os.dup(int(fd)) for fd in sys.argv[1:3]]; "
    "[os.set_inheritable(os.dup2(fd, 3 + i), True) for i, fd in enumerate(fds)]; os.execv(sys.argv[3], sys.argv[3:])"
)
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--remote-debugging-pipe",
]  # fmt: skip


TIMEOUT = 120
"""The seconds to wait for a message from the browser."""


@contextmanager
def open_page(profile: Path) -> Iterator["Page"]:
    """Start a browser with one empty page, and stop it afterwards."""
    assert PATH
    (browser_in, out), (into, browser_out) = os.pipe(), os.pipe()
    words = [sys.executable, "-c", _LAUNCH, str(browser_in), str(browser_out), PATH, *_FLAGS]
    process = subprocess.Popen(
        [*words, f"--user-data-dir={profile}"], pass_fds=(browser_in, browser_out), stderr=subprocess.DEVNULL
    )
    os.close(browser_in)
    os.close(browser_out)
    try:
        yield Page(into, out)
    finally:
        os.close(out)
        os.close(into)
        process.terminate()
        process.wait(TIMEOUT)


class Page:
    """A page of the browser at the other end of two pipes.

    Attributes:
        events: The events of the page, such as ``Network.requestWillBeSent``.
    """

    def __init__(self, into: int, out: int) -> None:
        self._in, self._out = into, out
        self._count, self._unread, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def evaluate(self, script: str) -> Any:
        """Return the value of a script in the page; wait for it if it is a promise."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Evaluate a script in the page again and again until its value is true, and return it."""
        return self.evaluate(
            f"new Promise(done => {{ const poll = () => {{ const value = {script}; "
            "value ? done(value) : setTimeout(poll, 20) }; poll() })"
        )

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._in], [], [], TIMEOUT)[0], "Chromium sends nothing"
            received = os.read(self._in, 2**20)
            assert received, "Chromium has stopped"
            self._unread += received
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
