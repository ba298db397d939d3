"""Classifies the images of requests, within the server's limits: admission, decoding, batching and deadlines."""

import asyncio
import base64
import io
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from cifar_lightning.errors import UsageError
from cifar_lightning.inference.predictor import Predictor, top_classes
from cifar_lightning.serving.batching import AsyncThreadPool, Batcher
from cifar_lightning.serving.limits import ServerLimits
from cifar_lightning.serving.schemas import BatchItem, Classification, PredictOptions, ProblemDetails
from cifar_lightning.serving.uploads import UploadedFile
from cifar_lightning.transforms.decode import ImageError, TooManyPixelsError, UnknownFormatError, decode_image

DECODERS = 4
"""How many images are decoded at once. An image of 50 megapixels takes 180 to 750 MB of memory, by its format."""

_T = TypeVar("_T")


class ClassificationService:
    """Classifies the images of requests; for one process with one event loop.

    Args:
        predictor: The model.
        limits: The limits of the server.
        registry: Where the Prometheus metrics are registered.

    Attributes:
        ready: Whether the model has classified a first image and the server is not shutting down.
    """

    def __init__(self, predictor: Predictor, limits: ServerLimits, registry: CollectorRegistry) -> None:
        self.card, self.limits, self.ready = predictor.card, limits, False
        self.min_confidence = predictor.min_confidence
        self._predictor = predictor
        self._decoders = AsyncThreadPool(DECODERS, "decoder")
        self._batcher = Batcher(self._classify_batch)
        self._batch_sizes = Histogram(
            "model_batch_size", "Images classified at once", buckets=[1, 2, 4, 8, 16, 32, 64], registry=registry
        )
        self._rejected = Counter(
            "requests_refused_busy_total", "Requests rejected because the server was busy", registry=registry
        )
        self._active = 0
        active = Gauge("requests_active", "Requests with images that are being handled", registry=registry)
        active.set_function(lambda: self._active)

    async def warm_up(self) -> None:
        """Classify a first image, which takes longer than those after it."""
        size = self.card.image_size
        await self._batcher.classify(np.zeros((size, size, 3), np.uint8))
        self.ready = True

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request as active. Enter before its body is received, to bound the memory that all requests take.

        Raises:
            HTTPException: If too many requests are active.
        """
        if self._active >= self.limits.requests:
            self._rejected.inc()
            raise make_busy_error(f"the server is busy: it is handling {self._active} requests, its maximum.")
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def check_options(self, options: PredictOptions) -> None:
        """Raise an HTTPException if more classes are requested than the model has."""
        if (options.top_k or 1) > len(self.card.classes):
            raise HTTPException(422, f"top_k is {options.top_k}, but the model has {len(self.card.classes)} classes.")

    async def classify(self, content: bytes, options: PredictOptions) -> Classification:
        """Decode and classify one image.

        Raises:
            HTTPException: If the image can't be decoded or the model is broken.
        """
        try:
            image = await self._decoders.run(decode_image, content, self.card.image_size, self.limits.pixels)
        except ImageError as error:
            status = {TooManyPixelsError: 413, UnknownFormatError: 415}.get(type(error), 422)
            raise HTTPException(status, f"the image can't be used: {error}.") from error
        try:
            top = top_classes(await self._batcher.classify(image), self.card.classes, options.top_k or 3)
        except UsageError as error:
            raise HTTPException(500, str(error)) from error
        preview = await self._decoders.run(_encode_data_url, image) if options.preview else None
        best, sure = top[0], top[0].probability >= self.min_confidence
        return Classification(label=best.label, probability=best.probability, sure=sure, top=top, preview=preview)

    async def classify_all(self, files: Sequence[UploadedFile], options: PredictOptions) -> list[BatchItem]:
        """Classify several images. An image that can't be classified gets a problem; the others are not affected."""

        async def classify_file(file: UploadedFile) -> BatchItem:
            try:
                return BatchItem(filename=file.name, answer=await self.classify(file.content, options))
            except HTTPException as error:
                problem = ProblemDetails.from_status(error.status_code, error.detail)
                return BatchItem(filename=file.name, problem=problem)

        return list(await asyncio.gather(*(classify_file(file) for file in files)))

    async def finish(self, request: Request, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work on a request; cancel it at the deadline, or when the client disconnects.

        Raises:
            HTTPException: If the work takes too long.
            ClientDisconnect: If the client disconnects.
        """
        task, disconnected = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(request))
        try:
            await asyncio.wait((task, disconnected), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if disconnected.done():
                raise ClientDisconnect
            raise make_busy_error(f"the request was not answered within {self.limits.seconds:g} seconds.")
        finally:
            task.cancel()
            disconnected.cancel()

    def _classify_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._batch_sizes.observe(len(images))
        return self._predictor.probabilities(images)


def make_busy_error(detail: str) -> HTTPException:
    """Make the error that tells a client to try again later."""
    return HTTPException(503, detail, {"Retry-After": "1"})


async def _wait_for_disconnect(request: Request) -> None:
    """Wait until a client that has sent its whole request disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode_data_url(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
