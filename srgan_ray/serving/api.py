"""The HTTP interface, as a FastAPI application around a Handler."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from srgan_ray.data import images
from srgan_ray.serving.handler import Handler, Upscaled
from srgan_ray.serving.protocol import MEDIA_TYPES, MEGA, PROBLEM_TYPE, Limits, Problem
from srgan_ray.serving.queue import CLIENT_LEFT, Queue, recorded
from srgan_ray.serving.watch import Record, Watch
from srgan_ray.serving.web import build_page

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
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
    408: {"description": "The body did not arrive within the time limit"},
    413: {"description": "Too many bytes or pixels"},
    415: {"description": "A type that is not read"},
    422: {"description": "A parameter out of range"},
    503: {"description": "Too many requests are waiting; see Retry-After"},
    504: {"description": "Not finished within the time limit"},
}


def build_api(handler: Handler, limits: Limits) -> FastAPI:
    """The application: `GET /`, `POST /upscale`, `GET /healthz`, `GET /docs`."""
    api = FastAPI(title="srgan_ray", summary="Photographs at four times their size", redoc_url=None)
    queue, watch = Queue(handler, limits), handler.watch
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
        record = Record(format=format, fidelity=fidelity)
        with recorded(watch, record):
            if fidelity is not None and not handler.has_fidelity:
                raise Problem(422, "fidelity: this endpoint serves one generator; wanted `serve --fidelity-generator`")
            with queue.place():
                encoded = await read_image(request, limits)
                num_px = check_header(encoded, limits)
                record.megapixels = num_px / MEGA
                result = await queue.upscale(encoded, num_px, format, fidelity)
            record.work = result.work
        return Response(result.encoded, media_type=MEDIA_TYPES[format], headers=describe(result))

    api.add_exception_handler(Problem, _answer_problem)
    api.add_exception_handler(RequestValidationError, functools.partial(_answer_invalid, watch))
    api.add_exception_handler(HTTPException, _answer_http)
    api.add_exception_handler(ClientDisconnect, _answer_nobody)
    api.add_exception_handler(Exception, _answer_unexpected)
    return api


async def read_image(request: Request, limits: Limits) -> bytes:
    """The image bytes of a request.

    Raises Problem 413 for too many (before they are all read), 408 for a slow sender, 415, or 400.
    """
    try:
        async with asyncio.timeout(limits.receive_limit_s):
            return await _read_body(request, limits)
    except TimeoutError as error:
        raise Problem(
            408, f"the body had not arrived after {limits.receive_limit_s:g} s; wanted a faster sender"
        ) from error


def check_header(encoded: bytes, limits: Limits) -> int:
    """The number of pixels. Raises Problem 400, 413 or 415 for an image that must not be decoded; reads its header."""
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
    return header.width * header.height


def describe(result: Upscaled) -> dict[str, str]:
    """The headers that say how a result came about."""
    return {
        "X-Generator": quote(result.generator, safe=" ,"),  # a run folder's name, in any letters; headers take Latin-1
        "X-Precision": result.precision,
        "X-Seconds": f"{result.seconds:.3f}",
        "X-Consistency-dB": f"{result.consistency_db:.2f}",
    }


async def _read_body(request: Request, limits: Limits) -> bytes:
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


async def _answer_invalid(watch: Watch, request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    problem = Problem(422, f"{first['loc'][-1]} {first.get('input')}: {first['msg']}")
    watch.answered(Record(problem.status, problem.detail))
    return await _answer_problem(request, problem)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = await _answer_problem(request, Problem(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})  # 405 says which methods are allowed
    return answer


async def _answer_nobody(*_: object) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    return await _answer_problem(request, Problem(500, "an error of the endpoint, which its log describes"))
