"""The web application of ``serve``: the page, the API under /v1, health and metrics."""

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from cifar_lightning import __version__
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.card import Card
from cifar_lightning.inference.predictor import Guess, Predictor, rank
from cifar_lightning.serving.batching import Batcher, Workers
from cifar_lightning.serving.middleware import Guard, Problem, problem
from cifar_lightning.transforms.decode import ImageError, TooManyPixelsError, UnknownFormatError, decode_image

WEB = Path(__file__).parent / "web"
"""The page's files."""

DECODERS = 4
"""How many images are decoded at once: one of 50 megapixels takes 180 to 750 MB meanwhile, by its format."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """What a server takes; what is more is refused, in a sentence.

    Attributes:
        bytes: Of a request's body.
        pixels: Of an image, width times height.
        images: Of one request to /v1/predict/batch.
        requests: That are received or answered at once.
        seconds: For receiving a request, and then for answering it.
        head_seconds: For the head of a request to arrive, and for a client to read some of what it is sent.
    """

    bytes: int = 10_000_000
    pixels: int = 50_000_000
    images: int = 32
    requests: int = 64
    seconds: float = 30.0
    head_seconds: float = 10.0


class Wish(BaseModel, extra="forbid"):
    """What a request may say of its answer.

    Attributes:
        top_k: How many classes to name, from 1 to K; 3, or all, by default.
        preview: Whether to show the image as the network sees it.
    """

    top_k: int | None = Field(None, ge=1)
    preview: bool = False


class Answer(BaseModel):
    """What the model says of one image: its most probable class, and the most probable ones, best first."""

    label: str
    probability: float
    top: tuple[Guess, ...]
    preview: str | None = None
    """The image as the network sees it, a data: URL of a PNG, where ?preview=true asks for it."""


class Item(BaseModel):
    """What became of one image of several: an answer or a problem."""

    filename: str
    answer: Answer | None = None
    problem: Problem | None = None


class Answers(BaseModel):
    """What became of several images, in the order in which they were sent."""

    results: list[Item]


class Model(BaseModel):
    """What the model says of itself, and what the server takes."""

    card: Card
    limits: Limits


class _InMemory(MultiPartParser):
    spool_max_size = 0  # no part is ever moved to the disk; the body's size has a limit of its own


_FILE = {"type": "string", "format": "binary"}
_FORM = {"multipart/form-data": {"schema": {"type": "object", "properties": {"file": _FILE}, "required": ["file"]}}}
_FORMS = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"files": {"type": "array", "items": _FILE, "minItems": 1}},
            "required": ["files"],
        }
    }
}
_RAW = {kind: {"schema": _FILE} for kind in ("image/*", "application/octet-stream")}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
    for status, text in {
        400: "The request holds no image, or not as many as it should",
        401: "The server needs its token",
        403: "A page of another web site sent it",
        408: "The request took too long to arrive",
        413: "Too many bytes or pixels",
        415: "The request, or the image in it, is of another format",
        421: "The server does not go by the name in Host",
        422: "The image is broken, or an argument is",
        500: "The server, or its model, is broken",
        503: "The server is busy; Retry-After says when to come again",
    }.items()
}


class _Service:
    """Receives, decodes and classifies images, within limits."""

    def __init__(self, predictor: Predictor, limits: Limits, registry: CollectorRegistry) -> None:
        self.card, self.limits, self.ready = predictor.card, limits, False
        self._predictor = predictor
        self._decoders = Workers(DECODERS, "decoder")
        self._batcher = Batcher(self._classify_batch)
        self._batches = Histogram(
            "model_batch_size", "Images classified at once", buckets=[1, 2, 4, 8, 16, 32, 64], registry=registry
        )
        self._busy = Counter("requests_refused_busy_total", "Requests refused as too many", registry=registry)
        self._active = 0
        Gauge("requests_active", "Requests with images now", registry=registry).set_function(lambda: self._active)

    async def warm_up(self) -> None:
        """Classifies a first image, which takes longer than those after it."""
        size = self.card.image_size
        await self._batcher.classify(np.zeros((size, size, 3), np.uint8))
        self.ready = True

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request, from before its body is received: that bounds the memory that all of them take."""
        if self._active >= self.limits.requests:
            self._busy.inc()
            raise _busy(f"{self._active} requests are being answered, which is all this server takes at once.")
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    async def receive(self, request: Request) -> list[tuple[str, bytes]]:
        """Receives the files of a request, at least one, with their names."""
        try:
            return await asyncio.wait_for(self._read_files(request), self.limits.seconds)
        except TimeoutError:
            detail = f"the request did not arrive within {self.limits.seconds:g} seconds."
            raise HTTPException(408, detail, {"Connection": "close"}) from None

    async def _read_files(self, request: Request) -> list[tuple[str, bytes]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = _limited(request, self.limits.bytes)
        if kind == "multipart/form-data":
            try:
                form = await _InMemory(request.headers, body, max_files=self.limits.images).parse()
            except MultiPartException as error:
                raise HTTPException(400, f"the form can't be read: {error.message}") from error
            fields = [value for _, value in form.multi_items()]
            files = [(field.filename or "", await field.read()) for field in fields if isinstance(field, UploadFile)]
            await form.close()
        elif kind.startswith("image/") or kind in ("", "application/octet-stream"):
            files = [("", b"".join([chunk async for chunk in body]))]
        else:
            raise HTTPException(
                415,
                f"the request is {kind}; send multipart/form-data, or the image itself as image/jpeg, image/png, … "
                "With curl: -F file=@cat.jpg, or --data-binary @cat.jpg -H 'Content-Type: image/jpeg'.",
            )
        if not any(data for _, data in files):
            raise HTTPException(400, "the request holds no image.")
        return files

    def check(self, wish: Wish) -> None:
        """Refuses to name more classes than there are."""
        if (wish.top_k or 1) > len(self.card.classes):
            raise HTTPException(
                422, f"top_k: it is {wish.top_k}, but the model knows {len(self.card.classes)} classes."
            )

    async def answer(self, data: bytes, wish: Wish) -> Answer:
        """Classifies one image, or says why not."""
        try:
            image = await self._decoders.run(decode_image, data, self.card.image_size, self.limits.pixels)
        except ImageError as error:
            status = {TooManyPixelsError: 413, UnknownFormatError: 415}.get(type(error), 422)
            raise HTTPException(status, f"the image can't be used: {error}.") from error
        try:
            top = rank(await self._batcher.classify(image), self.card.classes, wish.top_k or 3)
        except UsageError as error:
            raise HTTPException(500, str(error)) from error
        shown = await self._decoders.run(_to_url, image) if wish.preview else None
        return Answer(label=top[0].label, probability=top[0].probability, top=top, preview=shown)

    async def in_time(self, request: Request, answer: Coroutine[Any, Any, _T]) -> _T:
        """Awaits an answer for as long as the limits say, and as the client is there; else it is cancelled."""
        work, gone = asyncio.create_task(answer), asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait((work, gone), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise ClientDisconnect
            raise _busy(f"there was no answer within {self.limits.seconds:g} seconds.")
        finally:
            work.cancel()
            gone.cancel()

    def _classify_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._batches.observe(len(images))
        return self._predictor.probabilities(images)


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yields a request's body; stops receiving where it is too long, whatever its head says."""
    received = int(request.headers.get("content-length", 0))
    if received <= limit:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                break
            yield chunk
    if received > limit:
        raise HTTPException(413, f"a request may have {limit / 1e6:g} MB at most.", {"Connection": "close"})


async def _disconnected(request: Request) -> None:
    """Waits until a client that has sent its request goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _busy(detail: str) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": "1"})


def _to_url(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def create_app(
    predictor: Predictor,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> ASGIApp:
    """Makes the web application.

    Args:
        predictor: The model.
        limits: What is taken.
        token: What callers must know; None for nothing.
        hosts: The names that the server goes by besides localhost and IP addresses, in lower case; "*" for any.
        origins: The other web sites whose pages may use the server, such as "https://example.org"; "*" for any.

    Returns:
        An ASGI application, for one process with one event loop.
    """
    registry = CollectorRegistry()
    service = _Service(predictor, limits or Limits(), registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.warm_up()
        yield
        service.ready = False

    app = FastAPIOffline(
        title="cifar-lightning",
        version=__version__,
        description="Classifies images. Every error is a problem as RFC 9457 describes it.",
        redoc_url=None,
        favicon_url="/static/icon.svg",
        lifespan=lifespan,
    )
    app.mount("/static", StaticFiles(directory=WEB), name="static")

    @app.exception_handler(StarletteHTTPException)
    async def say_problem(_: Request, error: StarletteHTTPException) -> Response:
        return problem(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def say_arguments(_: Request, error: RequestValidationError) -> Response:
        return problem(422, "; ".join(f"{wrong['loc'][-1]}: {wrong['msg']}" for wrong in error.errors()) + ".")

    @app.exception_handler(ClientDisconnect)
    async def say_nothing(_: Request, error: ClientDisconnect) -> Response:
        return problem(400, "the request ended early.")  # nobody reads it

    @app.exception_handler(Exception)
    async def say_broken(_: Request, error: Exception) -> Response:
        return problem(500, "something is wrong with this server; its log says what.")

    @app.post("/v1/predict", responses=_ERRORS, openapi_extra=_body(_FORM | _RAW))
    async def predict(request: Request, wish: Annotated[Wish, Query()]) -> Answer:
        """Classifies one image: a form with one file, or the file itself as the body."""
        service.check(wish)
        with service.admitted():
            files = await service.receive(request)
            if len(files) > 1:
                raise HTTPException(400, f"these are {len(files)} images; /v1/predict/batch takes several.")
            return await service.in_time(request, service.answer(files[0][1], wish))

    @app.post("/v1/predict/batch", responses=_ERRORS, openapi_extra=_body(_FORMS))
    async def predict_batch(request: Request, wish: Annotated[Wish, Query()]) -> Answers:
        """Classifies the files of a form; for one that can't be used, its result says why, and the others count."""
        service.check(wish)
        with service.admitted():

            async def settle(name: str, data: bytes) -> Item:
                try:
                    return Item(filename=name, answer=await service.answer(data, wish))
                except HTTPException as error:
                    return Item(filename=name, problem=Problem.of(error.status_code, error.detail))

            files = await service.receive(request)
            return Answers(results=await service.in_time(request, _gather(settle(*file) for file in files)))

    @app.get("/v1/model")
    async def model() -> Model:
        """The model's card, and what this server takes."""
        return Model(card=service.card, limits=service.limits)

    @app.get("/livez", response_class=PlainTextResponse)
    async def livez() -> str:
        """Whether the process answers."""
        return "alive\n"

    @app.get("/readyz", response_class=PlainTextResponse, responses={503: _ERRORS[503]})
    async def readyz() -> str:
        """Whether a first image was classified, and the server did not end."""
        if not service.ready:
            raise _busy("the model is not ready.")
        return "ready\n"

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(WEB / "index.html")

    guarded = Guard(app, registry, token, hosts, origins)
    if not origins:
        return guarded
    # outermost: browsers ask for permission without the token, and may then read errors too
    return CORSMiddleware(guarded, origins, allow_methods=("GET", "POST"), allow_headers=("*",))


async def _gather(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    return list(await asyncio.gather(*coroutines))
