"""Micro-batching."""

import asyncio
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lightning.serving.batching import Batcher


def test_images_that_arrive_while_the_model_is_busy_are_classified_together() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(images))
        assert gate.wait(60)
        if (images == 9).any():
            raise ValueError("nine")
        return images.reshape(len(images), -1)[:, :1].astype(np.float32)

    async def ask() -> list[Any]:
        batcher = Batcher(run, batch_size=4)
        first = asyncio.create_task(batcher.classify(np.full((2, 2, 3), 1, np.uint8)))
        while not sizes:  # The model is classifying the first image.
            await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.classify(np.full((2, 2, 3), n, np.uint8))) for n in (2, 3, 4, 5, 9)]
        await asyncio.sleep(0)
        others[0].cancel()
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, gone, *others, failed = asyncio.run(ask())
    assert isinstance(gone, asyncio.CancelledError)
    assert [float(row[0]) for row in (first, *others)] == [1, 3, 4, 5]
    assert str(failed) == "nine"
    assert sizes == [1, 3, 1]
