"""The web application of ``serve``: the page, the API under /v1, health and metrics.

The routes are here. ``schemas.py`` has their requests and responses, ``uploads.py`` receives images, ``service.py``
classifies them, ``middleware.py`` protects all routes, and ``server.py`` serves the application.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from cifar_lightning import __version__
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving.limits import ServerLimits
from cifar_lightning.serving.middleware import AccessPolicy, ServerMiddleware
from cifar_lightning.serving.schemas import (
    ERRORS,
    ONE_IMAGE,
    SEVERAL_IMAGES,
    BatchResult,
    Classification,
    ModelInfo,
    PredictOptions,
    make_error_response,
)
from cifar_lightning.serving.service import ClassificationService, make_busy_error
from cifar_lightning.serving.uploads import receive_files

WEB = Path(__file__).parent / "web"
"""The folder of the page's files."""


def create_app(
    predictor: Predictor,
    limits: ServerLimits | None = None,
    token: str | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> ASGIApp:
    """Create the web application.

    Args:
        predictor: The model.
        limits: The limits of the server.
        token: The token that clients must send; None requires none.
        hosts: The host names that are allowed besides localhost and IP addresses, in lower case; "*" allows any.
        origins: The other sites whose pages may use the server, such as "https://example.org"; "*" allows any.

    Returns:
        An ASGI application, for one process with one event loop.
    """
    registry = CollectorRegistry()
    service = ClassificationService(predictor, limits or ServerLimits(), registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.warm_up()
        yield
        service.ready = False

    app = FastAPIOffline(
        title="cifar-lightning",
        version=__version__,
        description="Classifies images. Errors are problem details as in "
        "[RFC 9457](https://www.rfc-editor.org/rfc/rfc9457).",
        openapi_tags=[
            {"name": "Classify", "description": "Classify images."},
            {"name": "Server", "description": "The model, the limits and the health of the server."},
        ],
        redoc_url=None,
        favicon_url="/static/icon.svg",
        lifespan=lifespan,
    )
    _add_error_handlers(app)
    _add_classification(app, service)
    _add_server_information(app, service)
    _add_pages(app, registry)
    protected = ServerMiddleware(app, registry, AccessPolicy(token, hosts, origins))
    if not origins:
        return protected
    # CORS is outermost because browsers send preflight requests without the token, and must be able to read errors.
    return CORSMiddleware(protected, origins, allow_methods=("GET", "POST"), allow_headers=("*",))


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def handle_http_error(_: Request, error: StarletteHTTPException) -> Response:
        return make_error_response(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_parameters(_: Request, error: RequestValidationError) -> Response:
        details = [f"{invalid['loc'][-1]}: {invalid['msg']}" for invalid in error.errors()]
        return make_error_response(422, "; ".join(details) + ".")

    @app.exception_handler(ClientDisconnect)
    async def handle_disconnect(_: Request, error: ClientDisconnect) -> Response:
        return make_error_response(400, "the client disconnected.")  # Only the metrics see this response.

    @app.exception_handler(Exception)
    async def handle_bug(_: Request, error: Exception) -> Response:
        return make_error_response(500, "the server failed; see its log.")


def _add_classification(app: FastAPI, service: ClassificationService) -> None:
    @app.post("/v1/predict", summary="Classify one image", tags=["Classify"], responses=ERRORS, openapi_extra=ONE_IMAGE)
    async def predict(request: Request, options: Annotated[PredictOptions, Query()]) -> Classification:
        """Send the image as the only file of a form, or as the body of the request."""
        service.check_options(options)
        with service.admit():
            files = await receive_files(request, service.limits)
            if len(files) > 1:
                detail = f"the request contains {len(files)} images; send several to /v1/predict/batch."
                raise HTTPException(400, detail)
            return await service.finish(request, service.classify(files[0].content, options))

    @app.post(
        "/v1/predict/batch",
        summary="Classify several images",
        tags=["Classify"],
        responses=ERRORS,
        openapi_extra=SEVERAL_IMAGES,
    )
    async def predict_batch(request: Request, options: Annotated[PredictOptions, Query()]) -> BatchResult:
        """Send the images as the files of a form. Each gets an answer, or a problem if it can't be classified."""
        service.check_options(options)
        with service.admit():
            files = await receive_files(request, service.limits)
            return BatchResult(results=await service.finish(request, service.classify_all(files, options)))


def _add_server_information(app: FastAPI, service: ClassificationService) -> None:
    @app.get("/v1/model", summary="Describe the model and the limits", tags=["Server"])
    async def model() -> ModelInfo:
        """Return the model's card and the limits of the server."""
        return ModelInfo(card=service.card, limits=service.limits, min_confidence=service.min_confidence)

    @app.get("/livez", summary="Check that the server is running", tags=["Server"], response_class=PlainTextResponse)
    async def livez() -> str:
        """Return "alive". Needs no token."""
        return "alive\n"

    @app.get(
        "/readyz",
        summary="Check that the server is ready",
        tags=["Server"],
        response_class=PlainTextResponse,
        responses={503: ERRORS[503]},
    )
    async def readyz() -> str:
        """Return "ready" once the model has classified a first image, until the server shuts down. Needs no token."""
        if not service.ready:
            raise make_busy_error("the model is not ready.")
        return "ready\n"


def _add_pages(app: FastAPI, registry: CollectorRegistry) -> None:
    app.mount("/static", StaticFiles(directory=WEB), name="static")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(WEB / "index.html")
