"""The server's threads, and micro-batching: images that arrive while the model is busy are classified together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cifar_lightning.inference.predictor import Run

_T = TypeVar("_T")

PAUSE = 0.002
"""How long to wait for more, in seconds, where there is more than one image already; a lone one never waits."""


class Batcher:
    """Classifies single images in batches, in a thread of its own; for one event loop.

    There is nothing to start or stop: it works while images wait.

    Args:
        run: Turns a batch (B, H, W, C) into probabilities (B, K).
        batch_size: The most images to classify at once.
    """

    def __init__(self, run: Run, batch_size: int = 64) -> None:
        self._run, self._batch_size = run, batch_size
        self._waiting: list[tuple[NDArray[np.uint8], asyncio.Future[NDArray[np.float32]]]] = []
        self._thread = ThreadPoolExecutor(1, "model")
        self._work: asyncio.Task[None] | None = None

    async def classify(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the probabilities (K,) of an image (H, W, C); raises what ``run`` raises."""
        future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._empty())
        return await future

    async def _empty(self) -> None:
        while self._waiting:
            if 1 < len(self._waiting) < self._batch_size:
                await asyncio.sleep(PAUSE)
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            batch = [(image, future) for image, future in batch if not future.done()]  # nobody waits for the others
            if not batch:
                continue
            images = np.stack([image for image, _ in batch])
            try:
                rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, images)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), row in zip(batch, rows, strict=True):
                    if not future.done():
                        future.set_result(row)


class Workers:
    """Threads in which an event loop has work done.

    Work waits outside the pool's own queue, so that what was cancelled meanwhile is gone at once, with its data.

    Args:
        count: How many threads.
        name: Their name.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, name)
        self._free = asyncio.Semaphore(count)

    async def run(self, work: Callable[..., _T], *args: Any) -> _T:
        """Return what ``work`` returns, or raise what it raises."""
        loop = asyncio.get_running_loop()

        def release(_: object) -> None:  # when the thread is free again, also if nobody waits for its result any more
            with suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(self._free.release)

        await self._free.acquire()
        future = self._pool.submit(work, *args)
        future.add_done_callback(release)
        return await asyncio.wrap_future(future)
