"""Reading a file that is mapped into memory before its content is needed.

N items of any shape.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

PART = 2**17
"""Bytes that are asked for at once; Linux may leave out the rest of a longer part."""


def read_ahead(content: Tensor, indices: Tensor) -> None:
    """Tell the system which items of a mapped file are needed next; it reads them meanwhile, and this does not wait.

    By the function ``madvise`` of the C library (https://man7.org/linux/man-pages/man2/madvise.2.html). Python's own
    ``mmap.madvise`` needs the object that a tensor does not keep. It does nothing on Windows, which has no such
    function, and nothing to content that is in memory.

    Args:
        content: (N, …), contiguous.
        indices: (n,) int64, in [0, N).
    """
    if sys.platform == "win32" or not len(indices):
        return
    madvise = _find_madvise()
    start, size = content.data_ptr(), content[0].nbytes
    for index in indices.sort().values.tolist():
        first, end = start + index * size, start + (index + 1) * size
        for part in range(first - first % mmap.PAGESIZE, end, PART):
            madvise(ctypes.c_void_p(part), ctypes.c_size_t(min(PART, end - part)), mmap.MADV_WILLNEED)


@cache
def _find_madvise() -> Callable[..., Any]:
    found: Callable[..., Any] = ctypes.CDLL(None).madvise
    return found
