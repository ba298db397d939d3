"""A headless Chromium, driven over its own protocol through a pipe: https://chromedevtools.github.io/devtools-protocol/."""

import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Chromium reads commands from file descriptor 3 and writes to 4; these are pytest's own here
_LAUNCH = (
    "import os, sys; fds = [os.dup(int(fd)) for fd in sys.argv[1:3]]; "
    "[os.dup2(fd, 3 + i) for i, fd in enumerate(fds)]; os.execv(sys.argv[3], sys.argv[3:])"
)
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--remote-debugging-pipe",
]  # fmt: skip


class Chromium:
    """One browser with one page; a context manager.

    Attributes:
        events: What the page did, such as ``Network.requestWillBeSent``.
    """

    def __init__(self, profile: Path, seconds: float = 120) -> None:
        assert PATH
        self._seconds, self._count, self._unread, self._session = seconds, 0, b"", ""
        self.events: list[dict[str, Any]] = []
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        words = [sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), PATH, *_FLAGS]
        self._process = subprocess.Popen(
            [*words, f"--user-data-dir={profile}"], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(self._seconds)

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
            assert select.select([self._in], [], [], self._seconds)[0], "Chromium says nothing"
            received = os.read(self._in, 2**20)
            assert received, "Chromium has ended"
            self._unread += received
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
