"""Micro-batching (images that arrive while the model is busy are classified together), and threads to decode in."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cifar_lightning.inference.predictor import Run

_T = TypeVar("_T")

MAX_WAIT = 0.002
"""How long to wait for further images, in seconds, if at least two are waiting already. A single image never waits."""


class Batcher:
    """Classifies single images in batches, in its own thread; for one event loop.

    It needs no start and no stop: a task runs only while images are waiting.

    Args:
        run: Turns a batch (B, H, W, C) into probabilities (B, K).
        batch_size: The most images to classify at once.
    """

    def __init__(self, run: Run, batch_size: int = 64) -> None:
        self._run, self._batch_size = run, batch_size
        self._queue: list[tuple[NDArray[np.uint8], asyncio.Future[NDArray[np.float32]]]] = []
        self._thread = ThreadPoolExecutor(1, "model")
        self._task: asyncio.Task[None] | None = None

    async def classify(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (K,) of an image (H, W, C); raise what ``run`` raises."""
        future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._queue.append((image, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._process_queue())
        return await future

    async def _process_queue(self) -> None:
        while self._queue:
            if 1 < len(self._queue) < self._batch_size:
                await asyncio.sleep(MAX_WAIT)
            batch, self._queue = self._queue[: self._batch_size], self._queue[self._batch_size :]
            batch = [(image, future) for image, future in batch if not future.done()]  # Skip cancelled requests.
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


class AsyncThreadPool:
    """A thread pool for one event loop. Cancelled work that has not begun is dropped at once, with its data.

    ``ThreadPoolExecutor`` would keep it in its queue until a thread is free. So work waits for a semaphore here, and
    enters that queue only when a thread is free.

    Args:
        threads: The number of threads.
        name: The prefix of their names.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._free = asyncio.Semaphore(threads)

    async def run(self, work: Callable[..., _T], *args: Any) -> _T:
        """Return what ``work`` returns, or raise what it raises."""
        loop = asyncio.get_running_loop()

        def release(_: object) -> None:  # Called when the thread is free, even if the result was abandoned.
            with suppress(RuntimeError):  # The event loop may be closed by now.
                loop.call_soon_threadsafe(self._free.release)

        await self._free.acquire()
        future = self._pool.submit(work, *args)
        future.add_done_callback(release)
        return await asyncio.wrap_future(future)
