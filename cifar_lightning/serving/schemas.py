"""The requests and responses of the HTTP API, as FastAPI validates and describes them.

The names of the fields are part of the API: clients depend on them.
"""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from cifar_lightning.inference.card import Card
from cifar_lightning.inference.predictor import ClassProbability
from cifar_lightning.serving.limits import ServerLimits


class PredictOptions(BaseModel, extra="forbid"):
    """The query parameters of the routes that classify images."""

    top_k: int | None = Field(None, ge=1, description="The number of classes to return. By default 3, or all of them.")
    preview: bool = Field(False, description="Whether to return the image as the network sees it.")


class Classification(BaseModel):
    """The most probable class of one image."""

    label: str = Field(description="The most probable class.")
    probability: float = Field(description="The probability of that class, from 0 to 1.")
    sure: bool = Field(
        description="Whether that probability is at least the server's minimum confidence, if it has one."
    )
    top: tuple[ClassProbability, ...] = Field(description="The most probable classes, best first.")
    preview: str | None = Field(
        None, description="With preview=true, the image as the network sees it: a data: URL of a PNG."
    )


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 describes it: https://www.rfc-editor.org/rfc/rfc9457."""

    type: str = "about:blank"
    title: str = Field(description="The name of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong, and what to do.")

    @classmethod
    def from_status(cls, status: int, detail: str) -> "ProblemDetails":
        """Describe an error by its HTTP status."""
        return cls(title=HTTPStatus(status).phrase, status=status, detail=detail)


def make_error_response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Make an error response, of type application/problem+json."""
    content = ProblemDetails.from_status(status, detail).model_dump()
    return JSONResponse(content, status, headers, "application/problem+json")


class BatchItem(BaseModel):
    """The result for one image of several: either an answer or a problem."""

    filename: str
    answer: Classification | None = None
    problem: ProblemDetails | None = None


class BatchResult(BaseModel):
    """The results for several images."""

    results: list[BatchItem] = Field(description="One result for each image, in the order of the request.")


class ModelInfo(BaseModel):
    """The model and the limits of the server."""

    card: Card
    limits: ServerLimits
    min_confidence: float = Field(description="The probability below which an answer is not sure; 0 if there is none.")


_FILE = {"type": "string", "format": "binary"}


def _describe_form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "multipart/form-data": {"schema": {"type": "object", "properties": {name: schema}, "required": [name]}},
    }


def _describe_body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


ONE_IMAGE = _describe_body(
    _describe_form("file", _FILE) | {kind: {"schema": _FILE} for kind in ("image/*", "application/octet-stream")}
)
"""The OpenAPI description of a request with one image."""

SEVERAL_IMAGES = _describe_body(_describe_form("files", {"type": "array", "items": _FILE, "minItems": 1}))
"""The OpenAPI description of a request with several images."""

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
    }
    for status, text in {
        400: "The request contains no image, or too many",
        401: "The token is missing or wrong",
        403: "The request was sent by a page of another site",
        408: "The request took too long to arrive",
        413: "The request has too many bytes, or an image has too many pixels",
        415: "The content type of the request or the format of an image is not supported",
        421: "The host name of the request is not allowed",
        422: "An image is broken, or a parameter is invalid",
        500: "The server or its model is broken",
        503: "The server is busy; the header Retry-After says when to try again",
    }.items()
}
"""The OpenAPI descriptions of the errors."""
