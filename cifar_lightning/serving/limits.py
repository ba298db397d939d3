"""The limits of the server: how large, how many and how slow requests may be."""

from pydantic import computed_field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class ServerLimits:
    """The limits of a server. Requests above them are rejected with a clear error.

    Attributes:
        bytes: The most bytes of a request's body.
        pixels: The most pixels of an image, width times height.
        images: The most images of one request to /v1/predict/batch.
        requests: The most requests that are received or answered at once.
        seconds: The time to receive a request, and then the time to answer it.
        head_seconds: The time for the head of a request to arrive, and for a client to read some of a response.
    """

    bytes: int = 10_000_000
    pixels: int = 50_000_000
    images: int = 32
    requests: int = 64
    seconds: float = 30.0
    head_seconds: float = 10.0

    @computed_field(json_schema_extra={"deprecated": True})  # type: ignore[prop-decorator]
    @property
    def pictures(self) -> int:
        """The name of ``images`` in version 0.1.0; clients may read it from /v1/model."""
        return self.images
