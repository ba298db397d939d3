"""Receives the files of a request in memory, within the server's limits."""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from cifar_lightning.serving.limits import ServerLimits


class UploadedFile(NamedTuple):
    """A file that a client sent. The name is empty if the file is the body itself."""

    name: str
    content: bytes


class _InMemoryParser(MultiPartParser):
    spool_max_size = 0  # Never move a part to the disk: images are private, and the body's size is limited anyway.


async def receive_files(request: Request, limits: ServerLimits) -> list[UploadedFile]:
    """Receive the files of a request: those of a form, whatever its fields are called, or the body as one file.

    Returns:
        At least one file.

    Raises:
        HTTPException: If the request exceeds a limit, contains no file or is of another content type.
    """
    try:
        return await asyncio.wait_for(_read_files(request, limits), limits.seconds)
    except TimeoutError:
        detail = f"the request did not arrive within {limits.seconds:g} seconds."
        raise HTTPException(408, detail, {"Connection": "close"}) from None


async def _read_files(request: Request, limits: ServerLimits) -> list[UploadedFile]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = _stream_body(request, limits.bytes)
    if kind == "multipart/form-data":
        try:
            form = await _InMemoryParser(request.headers, body, max_files=limits.images).parse()
        except MultiPartException as error:
            raise HTTPException(400, f"the form can't be parsed: {error.message}") from error
        except FormParserError as error:  # of the library below, which only newer releases of starlette catch
            raise HTTPException(400, "the form can't be parsed.") from error
        fields = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        files = [UploadedFile(field.filename or "", await field.read()) for field in fields]
        await form.close()
    elif kind.startswith("image/") or kind in ("", "application/octet-stream"):
        files = [UploadedFile("", b"".join([chunk async for chunk in body]))]
    else:
        raise HTTPException(
            415,
            f"unsupported content type {kind}. Send multipart/form-data, or the image itself as image/jpeg, image/png, "
            "… With curl: -F file=@cat.jpg, or --data-binary @cat.jpg -H 'Content-Type: image/jpeg'.",
        )
    if not any(file.content for file in files):
        raise HTTPException(400, "the request contains no image.")
    return files


async def _stream_body(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield a request's body; stop receiving when it exceeds the limit, whatever Content-Length says."""
    received = int(request.headers.get("content-length", 0))
    if received <= limit:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                break
            yield chunk
    if received > limit:
        detail = f"the request is larger than this server's limit of {limit / 1e6:g} MB."
        raise HTTPException(413, detail, {"Connection": "close"})
