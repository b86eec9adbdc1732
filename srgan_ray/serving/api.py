"""The HTTP interface, as a FastAPI application around a Handler."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from srgan_ray.data import images
from srgan_ray.serving.handler import Cancellation, Handler, Upscaled
from srgan_ray.serving.picture import TooLargeForFormat
from srgan_ray.serving.protocol import MEDIA_TYPES, PROBLEM_TYPE, Limits, Problem
from srgan_ray.serving.web import build_page

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
MEGA = 1_000_000
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BINARY,
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY["schema"]}}
            },
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "Not an image, or damaged"},
    413: {"description": "Too many bytes or pixels"},
    415: {"description": "A type that is not read"},
    422: {"description": "A parameter out of range"},
    503: {"description": "Too many requests are waiting; see Retry-After"},
    504: {"description": "Not finished within the time limit"},
}


def build_api(handler: Handler, limits: Limits) -> FastAPI:
    """The application: `GET /`, `POST /upscale`, `GET /healthz`, `GET /docs`."""
    api = FastAPI(title="srgan_ray", summary="Photographs at four times their size", redoc_url=None)
    queue = Queue(handler, limits)
    html, policy = build_page()

    @api.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Which generator is served, ready for requests, and what it takes."""
        card = handler.card
        return {
            "status": "ok",
            "generator": card.name,
            "degradation": card.degradation,
            "vgg_weights": card.vgg_weights,
            "precision": handler.precision,
            "fidelity": handler.has_fidelity,
            "max_mb": limits.max_mb,
            "max_megapixels": limits.max_megapixels,
        }

    @api.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """A page to drop a photograph on."""
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @api.post(
        "/upscale",
        response_class=Response,
        openapi_extra=_BODY,
        responses={
            200: {"content": {media_type: _BINARY for media_type in MEDIA_TYPES.values()}},
            **{status: {**problem, "content": {PROBLEM_TYPE: {}}} for status, problem in _PROBLEMS.items()},
        },
    )
    async def upscale(
        request: Request,
        format: Literal["png", "jpeg", "webp"] = "png",
        fidelity: Annotated[float | None, Query(ge=0, le=1)] = None,
    ) -> Response:
        """A photograph (body, or multipart field `file`), back at four times its size."""
        if fidelity is not None and not handler.has_fidelity:
            raise Problem(422, "fidelity: this endpoint serves one generator; wanted `serve --fidelity-generator`")
        with queue.place():
            encoded = await read_image(request, limits)
            check_header(encoded, limits)
            result = await queue.upscale(encoded, format, fidelity)
        return Response(result.encoded, media_type=MEDIA_TYPES[format], headers=describe(result))

    api.add_exception_handler(Problem, _answer_problem)
    api.add_exception_handler(RequestValidationError, _answer_invalid)
    api.add_exception_handler(HTTPException, _answer_http)
    api.add_exception_handler(Exception, _answer_unexpected)
    return api


class Queue:
    """Gives each request a thread to decode, wait for the model and encode in; refuses when too many are inside."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._handler, self._limits = handler, limits
        self._executor = ThreadPoolExecutor(limits.max_waiting, thread_name_prefix="upscale")
        self._num_inside = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, held while inside the `with`. Raises Problem 503 when there is none."""
        if self._num_inside >= self._limits.max_waiting:
            detail = f"{self._num_inside} requests are waiting, which is the limit; wanted a later try"
            raise Problem(503, detail, {"Retry-After": "5"})
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1

    async def upscale(self, encoded: bytes, format: str, fidelity: float | None) -> Upscaled:
        """The handler's answer. Problem 504 after the time limit; then, or when the client leaves, work stops."""
        cancellation = Cancellation()
        work = asyncio.get_running_loop().run_in_executor(
            self._executor, self._handler.upscale, encoded, format, fidelity, cancellation.check
        )
        try:
            return await asyncio.wait_for(work, self._limits.time_limit_s)
        except TimeoutError as error:
            raise Problem(
                504, f"not finished within {self._limits.time_limit_s:g} s; wanted a smaller image"
            ) from error
        except images.UnsupportedFormat as error:
            raise Problem(415, str(error)) from error
        except images.UnreadableImage as error:
            raise Problem(400, str(error)) from error
        except TooLargeForFormat as error:
            raise Problem(422, f"format: {error}") from error
        finally:
            cancellation.cancel()


async def read_image(request: Request, limits: Limits) -> bytes:
    """The image bytes of a request. Raises Problem 413 for too many (before they are all read), 415, or 400."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    bounded = Request(request.scope, _bounded(request, limits))
    if content_type.startswith("image/"):
        return await bounded.body()
    if content_type == "multipart/form-data":
        async with bounded.form(max_files=1, max_fields=8) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise Problem(400, "multipart body without a file in the field `file`; wanted an image there")
            return await file.read()
    raise Problem(415, f"content type {content_type or 'missing'}; wanted image/* or multipart/form-data")


def check_header(encoded: bytes, limits: Limits) -> None:
    """Raise Problem 400, 413 or 415 for an image that must not be decoded; reads its header alone."""
    try:
        header = images.read_header(encoded)
    except images.UnsupportedFormat as error:
        raise Problem(415, str(error)) from error
    except images.TooManyPixels as error:
        raise Problem(413, str(error)) from error
    except images.UnreadableImage as error:
        raise Problem(400, str(error)) from error
    if header.width * header.height > limits.max_megapixels * MEGA:
        found = f"{header.width}x{header.height} pixels"
        raise Problem(413, f"{found}; wanted at most {limits.max_megapixels:g} megapixels")


def describe(result: Upscaled) -> dict[str, str]:
    """The headers that say how a result came about."""
    return {
        "X-Generator": result.generator,
        "X-Precision": result.precision,
        "X-Seconds": f"{result.seconds:.3f}",
        "X-Consistency-dB": f"{result.consistency_db:.2f}",
    }


def _bounded(request: Request, limits: Limits) -> Receive:
    most = int(limits.max_mb * MEGA)
    too_many = Problem(413, f"the body has more than {most} bytes; wanted at most that many")
    if int(request.headers.get("content-length") or 0) > most:
        raise too_many
    num_bytes = 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal num_bytes
        message = await request.receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > most:
            raise too_many
        return message

    return receive


async def _answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return JSONResponse(error.as_json(), error.status, error.headers, PROBLEM_TYPE)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return await _answer_problem(request, Problem(422, f"{first['loc'][-1]} {first.get('input')}: {first['msg']}"))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return await _answer_problem(request, Problem(error.status_code, str(error.detail)))


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    return await _answer_problem(request, Problem(500, "an error of the endpoint, which its log describes"))
