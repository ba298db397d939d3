"""The process's standard streams: output that can't be encoded or written must not stop a training.

Examples are a closed terminal, a full disk behind a redirection, a pipe whose reader has ended, and a locale whose
encoding lacks the characters of a table's border.
"""

import errno
import io
import os
import sys
from typing import Any


class LenientOutput(io.RawIOBase):
    """Writes to a file until that fails, and discards everything after.

    Args:
        raw: The file; None if it was closed before the process began.

    Attributes:
        error: Why output was lost; None if no output was lost.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        self._raw = raw
        self.error = None if raw else OSError(errno.EBADF, os.strerror(errno.EBADF))

    def writable(self) -> bool:
        """Tell ``io`` that this stream can be written to."""
        return True

    def isatty(self) -> bool:
        """Tell whether the file is a terminal."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._raw.fileno() if self._raw else super().fileno()

    def write(self, data: Any, /) -> int | None:
        """Write bytes, or discard them, and return their number."""
        if self._raw and self.error is None:
            try:
                return self._raw.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def protect_streams() -> LenientOutput | None:
    """Make ``sys.stdout`` and ``sys.stderr`` lenient; called once, when the process begins.

    Characters that the encoding lacks are replaced on standard output; on standard error Python does so itself.

    Returns:
        The stream below ``sys.stdout``; None if ``sys.stdout`` is not a text file, as in a notebook.
    """
    for descriptor in range(3):  # Otherwise the next file that is opened would become the standard output.
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
    unbuffered = isinstance(buffer, io.RawIOBase)  # with python -u
    lenient = LenientOutput(buffer if unbuffered else buffer.raw)
    above: Any = lenient if unbuffered else io.BufferedWriter(lenient)
    lines, through = stream.line_buffering, stream.write_through
    wrapped = io.TextIOWrapper(above, stream.encoding, errors, line_buffering=lines, write_through=through)
    setattr(sys, name, wrapped)
    return lenient


def report_lost_output(output: LenientOutput | None, status: int) -> int:
    """Flush standard output, and report output that could not be written.

    Args:
        output: What ``protect_streams`` returned.
        status: The exit status so far.

    Returns:
        The exit status: unchanged if it was not 0 or no output was lost; otherwise 141 if the reader of a pipe has
        ended, and 1 for any other error.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    if output is None or output.error is None:
        return status
    if output.error.errno == errno.EPIPE:  # Programs in a pipe before `head` end silently, too.
        return status or 141
    print(f"cifar-lightning: the output could not be written: {output.error.strerror}", file=sys.stderr)
    return status or 1
