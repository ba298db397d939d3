"""The folder of a run: its number, the lock of the process that trains in it, and its removal if it stays empty."""

import errno
import json
import os
import re
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import UNFINISHED, write_atomically
from cifar_lightning.io.text import say

LOCK, OWNER = ".lock", ".owner.json"

LEFTOVERS = (UNFINISHED, f"figures/{UNFINISHED}")
"""Patterns of files that a killed process was writing."""

REPLACEABLE = (
    LOCK, OWNER, *LEFTOVERS, ".seconds", ".metrics.csv.before", "config.yaml", "hparams.yaml", "events.out.tfevents.*",
    "figures/train_augmentation.png",
)  # fmt: skip
"""Patterns of files that exist before a training's first result; a folder without other files is removed."""


class RunFolder:
    """A run's folder, locked by the process that trains in it.

    The operating system releases the lock when the process ends, even by ``kill -9``. In distributed training, the
    process of rank 0 holds the lock for all.

    Args:
        path: An existing folder.

    Raises:
        UsageError: If another process trains in the folder, or it can't be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = False
        self._made: list[Path] = []  # Folders above it that were made for it, the innermost first.
        self._lock = FileLock(path / LOCK)
        try:
            self._lock.acquire(blocking=False)
            for pattern in LEFTOVERS:  # The process that wrote them held the lock, and has ended.
                for leftover in path.glob(pattern):
                    leftover.unlink()
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            write_atomically(path / OWNER, json.dumps(owner))
        except Timeout as error:
            raise UsageError(
                f"{path} is being trained by {_read_owner(path)}. Wait until it ends, or stop it; then resume the run. "
                "To begin a new run, leave out --ckpt_path."
            ) from error
        except OSError as error:
            if self._lock.is_locked or error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                self._lock.release()
                raise UsageError(
                    f"the run folder {path} can't be written to: {error.strerror}. Copy the checkpoint to another "
                    "folder and resume it there."
                ) from error
            say(
                f"note: {path} can't be locked ({error.strerror}); make sure that no other process trains in it",
                sys.stderr,
            )

    @classmethod
    def claim(cls, parent: Path, number: int, kind: str = "version") -> "RunFolder":
        """Make a new folder, ``version_<number>`` or the next free one, even if other processes do so at the same time.

        Args:
            parent: Where to make it.
            number: The first number to try.
            kind: What the folder's name begins with.

        Raises:
            UsageError: If the folder can't be made.
        """
        missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while True:
                path = parent / f"{kind}_{number}"
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise UsageError(
                f"no run folder can be made in {parent}: {error.strerror}. Choose another folder: "
                "--trainer.default_root_dir DIR"
            ) from error
        run = cls(path)
        run._new, run._made = True, missing
        return run

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock, and remove the folder if it was made for this training and contains no result."""
        with suppress(OSError):
            (self.path / OWNER).unlink()
        discard = self._new and not self._has_results()
        self._lock.release()
        if discard:
            with suppress(OSError):  # The folder stays if it was renamed or has a result by now.
                for pattern in REPLACEABLE:
                    for file in self.path.glob(pattern):
                        file.unlink()
                with suppress(FileNotFoundError):
                    (self.path / "figures").rmdir()
                self.path.rmdir()
                for folder in dict.fromkeys([self.path.parent, *self._made]):
                    folder.rmdir()  # It fails if there are other runs.

    def _has_results(self) -> bool:
        replaceable = {file for pattern in REPLACEABLE for file in self.path.glob(pattern)} | {self.path / "figures"}
        return any(file not in replaceable for file in self.path.rglob("*"))


def next_number(parent: Path) -> int:
    """Return the number after the highest of the folders ``version_<number>``; 0 if there are none."""
    numbers = [re.fullmatch(r"version_(\d+)", path.name) for path in parent.glob("version_*")]
    return max((int(number[1]) for number in numbers if number), default=-1) + 1


def _read_owner(path: Path) -> str:
    try:
        owner = json.loads((path / OWNER).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # The owner has just begun or is about to end.
        return "another process"
