"""The process's standard streams: output that can't be encoded or written never ends the work that is done.

A training must not be lost because the terminal is closed, the disk behind a redirection is full, the reader of a pipe
has gone, or the locale's encoding has no character for a table's border.
"""

import errno
import io
import os
import sys
from typing import Any


class LenientOutput(io.RawIOBase):
    """Writes to a file until that fails, and drops the rest.

    Args:
        raw: The file; None if it was closed before the process began.

    Attributes:
        error: Why output was lost; None if none was.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        self._raw = raw
        self.error = None if raw else OSError(errno.EBADF, os.strerror(errno.EBADF))

    def writable(self) -> bool:
        """Tells io that this is for writing."""
        return True

    def isatty(self) -> bool:
        """Tells whether this is a terminal."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Returns the file's descriptor."""
        return self._raw.fileno() if self._raw else super().fileno()

    def write(self, data: Any, /) -> int | None:
        """Writes, or drops, some bytes."""
        if self._raw and self.error is None:
            try:
                return self._raw.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def protect_streams() -> LenientOutput | None:
    """Makes ``sys.stdout`` and ``sys.stderr`` lenient; call it once, at the process's entry.

    Characters that the encoding lacks are replaced on standard output, as Python does on standard error by itself.

    Returns:
        What is below ``sys.stdout``; None if that is not a text file, as in a notebook.
    """
    for descriptor in range(3):  # a file of the run must not become the standard output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    _protect("stderr", "backslashreplace")
    return _protect("stdout", "replace")


def _protect(name: str, errors: str) -> LenientOutput | None:
    stream = getattr(sys, name)
    if stream is None:
        lenient = LenientOutput(None)
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(lenient), encoding="utf-8", errors=errors))
        return lenient
    if not isinstance(stream, io.TextIOWrapper):
        return None
    buffer: Any = stream.buffer
    unbuffered = isinstance(buffer, io.RawIOBase)  # python -u
    lenient = LenientOutput(buffer if unbuffered else buffer.raw)
    above: Any = lenient if unbuffered else io.BufferedWriter(lenient)
    lines, through = stream.line_buffering, stream.write_through
    wrapped = io.TextIOWrapper(above, stream.encoding, errors, line_buffering=lines, write_through=through)
    setattr(sys, name, wrapped)
    return lenient


def report_lost_output(output: LenientOutput | None, status: int) -> int:
    """Flushes standard output, and says so if some of it could not be written.

    Args:
        output: What ``protect_streams`` returned.
        status: The exit status so far.

    Returns:
        The exit status: as before if nothing was lost or it was not 0; else 141 if the reader has gone, 1 otherwise.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    if output is None or output.error is None:
        return status
    if output.error.errno == errno.EPIPE:  # as a shell's own tools end before `head`: without a word
        return status or 141
    print(f"cifar-lightning: the output could not be written: {output.error.strerror}", file=sys.stderr)
    return status or 1
