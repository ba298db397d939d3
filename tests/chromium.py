"""A headless Chromium, driven over its own protocol through a pipe: https://chromedevtools.github.io/devtools-protocol/."""

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

# Chromium reads commands from file descriptor 3 and writes to 4; these are pytest's own here
_LAUNCH = (
    "import os, sys; fds = [os.dup(int(fd)) for fd in sys.argv[1:3]]; "
    "[os.set_inheritable(os.dup2(fd, 3 + i), True) for i, fd in enumerate(fds)]; os.execv(sys.argv[3], sys.argv[3:])"
)
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--remote-debugging-pipe",
]  # fmt: skip


SECONDS = 120
"""How long the browser may be silent."""


@contextmanager
def open_page(profile: Path) -> Iterator["Page"]:
    """Starts a browser with one empty page, and ends it."""
    assert PATH
    (theirs_in, out), (into, theirs_out) = os.pipe(), os.pipe()
    words = [sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), PATH, *_FLAGS]
    process = subprocess.Popen(
        [*words, f"--user-data-dir={profile}"], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(into, out)
    finally:
        os.close(out)
        os.close(into)
        process.terminate()
        process.wait(SECONDS)


class Page:
    """A page of the browser at the other end of two pipes.

    Attributes:
        events: What the page did, such as ``Network.requestWillBeSent``.
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
        """Sends a command and returns what it results in."""
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
        """Returns the value of a script in the page; waits for a promise."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Returns the value of a script in the page as soon as it is true."""
        return self.evaluate(
            f"new Promise(done => {{ const look = () => {{ const found = {script}; "
            "found ? done(found) : setTimeout(look, 20) }; look() })"
        )

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._in], [], [], SECONDS)[0], "Chromium says nothing"
            received = os.read(self._in, 2**20)
            assert received, "Chromium has ended"
            self._unread += received
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
