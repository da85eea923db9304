"""The HTTP entrance every service shares: errors as RFC 9457 problems, traces, metrics, limits, idempotency keys."""

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from opentelemetry.trace import SpanKind
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.kernel.errors import (
    Conflict,
    DockyardError,
    InDoubt,
    Invalid,
    Mismatch,
    NotFound,
    Overloaded,
    Refused,
    StillRunning,
    Unavailable,
)
from libs.telemetry import metrics, names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import current_ids, is_recording, span, start_root

DOCKYARD_POSITION = "Dockyard-Position"
DOCKYARD_AFTER = "Dockyard-After"
PROBLEM = "application/problem+json"
# The largest order has 100 lines, about 10 KiB; a catalogue page of 1,000 products about 150 KiB.
BODY_BYTES_MAX = 256 * 1024
WAIT_SECONDS_MAX = 60.0
KEY_LETTERS_MAX = 255
PAGE_TOKEN_LETTERS_MAX = 200

log = get_logger(__name__)

STATUS: Mapping[type[DockyardError], int] = {
    Invalid: 400,
    NotFound: 404,
    Conflict: 409,
    StillRunning: 409,
    Mismatch: 422,
    Refused: 409,
    Unavailable: 503,
    Overloaded: 429,
    InDoubt: 504,
    DockyardError: 500,
}

TITLES: Mapping[int, str] = {
    400: "The request is malformed",
    404: "There is no such thing",
    405: "That method is not supported here",
    409: "The state does not allow it",
    413: "The request is too large",
    415: "That media type is not supported",
    422: "The request cannot be processed",
    429: "Too many requests",
    500: "Something went wrong on our side",
    503: "Not available at the moment",
    504: "It is not known whether it happened",
}

_RETRYABLE = frozenset({429, 503})
_PREFER_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6}(?:\.\d+)?)\"?", re.IGNORECASE)


class FieldProblem(BaseModel):
    """One field that is wrong, by its JSON Pointer (RFC 6901)."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """An error as RFC 9457 describes it. Programs look at `code`, people at `detail`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    trace_id: str
    details: dict[str, str] = {}
    errors: list[FieldProblem] = []


Ready = Callable[[], Awaitable[None]]


def create_app(service: str, description: str, router: APIRouter, ready: Sequence[Ready] = ()) -> FastAPI:
    """The service's HTTP application: its own routes behind the entrance they all share.

    `ready` are awaited by /readyz and raise what keeps the service from being useful.
    """
    app = FastAPI(
        title=f"Dockyard {service}",
        description=description,
        version="1",
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        responses={
            "default": {"description": "Any error", "content": {PROBLEM: {"schema": Problem.model_json_schema()}}}
        },
    )
    app.include_router(router)
    app.include_router(_operations(ready))
    app.add_exception_handler(DockyardError, _on_dockyard_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(_Entrance)
    return app


def _operations(ready: Sequence[Ready]) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz")
    async def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @routes.get("/readyz")
    async def is_ready() -> dict[str, str]:
        """The service can do its work."""
        for check in ready:
            await check()
        return {"status": "ready"}

    @routes.get("/metrics", response_class=Response)
    async def show_metrics() -> Response:
        """Prometheus metrics."""
        return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)

    return routes


class _Entrance:
    """Around every request: its trace, its metrics, its size limit, and the last answer to whatever went wrong."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with start_root(_header(scope, b"traceparent")):
            if is_recording():
                attributes = {names.HTTP_METHOD: scope["method"]}
                with span(names.HTTP_REQUEST, kind=SpanKind.SERVER, attributes=attributes) as current:
                    status = await self._serve(scope, receive, send)
                    assert current is not None
                    current.set_attribute(names.HTTP_ROUTE, _route(scope))
                    current.set_attribute(names.HTTP_STATUS, status)
            else:
                await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> int:
        status = 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            declared = _header(scope, b"content-length")
            if declared and declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
                raise _TooLarge
            await self._app(scope, _limited(receive), watched_send)
        except _TooLarge:
            response = problem_response(
                413, "body-too-large", f"a body has at most {BODY_BYTES_MAX} bytes", scope["path"]
            )
            await response(scope, receive, watched_send)
        except Exception:  # the outermost loop of a request: nothing internal leaves, everything is logged once
            log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
            if status:
                raise
            response = problem_response(500, "internal", "the error is logged under this trace id", scope["path"])
            await response(scope, receive, watched_send)
        metrics.HTTP_REQUESTS.labels(scope["method"], _route(scope), status).inc()
        return status


class _TooLarge(Exception):
    """The body has more bytes than any request of ours."""


def _limited(receive: Receive) -> Receive:
    """The same body, up to the limit: a chunked one does not say its size beforehand."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_BYTES_MAX:
            raise _TooLarge
        return message

    return limited


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def _route(scope: Scope) -> str:
    """The route's template: a label with few values, whatever paths people try."""
    return getattr(scope.get("route"), "path", "unmatched")


def problem_response(
    status: int,
    code: str,
    detail: str,
    instance: str,
    *,
    details: Mapping[str, str] | None = None,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as an HTTP answer."""
    body = {
        "type": f"urn:dockyard:problem:{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "trace_id": current_ids()[0],
        **({"details": dict(details)} if details else {}),
        **({"errors": [error.model_dump() for error in errors]} if errors else {}),
    }
    return Response(msgspec.json.encode(body), status_code=status, media_type=PROBLEM, headers=dict(headers or {}))


def status_of(error: DockyardError) -> int:
    """The HTTP status of an error, by the nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


async def _on_dockyard_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DockyardError)
    status = status_of(error)
    retry = error.retry_after_seconds or (1.0 if status in _RETRYABLE else None)
    headers = {"Retry-After": str(math.ceil(retry))} if retry else None
    return problem_response(status, error.code, error.message, request.url.path, details=error.details, headers=headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        FieldProblem(pointer="/" + "/".join(str(part) for part in one["loc"]), detail=one["msg"])
        for one in error.errors()
    ]
    detail = "; ".join(f"{problem.pointer}: {problem.detail}" for problem in problems[:3])
    return problem_response(422, "invalid-request", detail, request.url.path, errors=problems)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "no-such-path", 405: "method-not-allowed"}.get(error.status_code, "http-error")
    return problem_response(error.status_code, code, str(error.detail), request.url.path, headers=error.headers)


def idempotency_key(
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="Any text unique to this request; repeats are answered alike"),
    ] = None,
) -> str:
    """The caller's key (draft-ietf-httpapi-idempotency-key-header). Raises Invalid when it is missing or unusable."""
    if not key:
        raise Invalid("this request needs an Idempotency-Key header", code="idempotency-key-missing")
    if len(key) > KEY_LETTERS_MAX or not key.isascii() or not key.isprintable():
        raise Invalid(
            f"an Idempotency-Key is 1 to {KEY_LETTERS_MAX} visible characters", code="idempotency-key-invalid"
        )
    return key


def prefer_wait(prefer: str) -> float:
    """How many seconds the caller is willing to wait (RFC 7240 §4.3), at most a minute; 0 when it does not say."""
    found = _PREFER_WAIT.search(prefer)
    return min(float(found.group(1)), WAIT_SECONDS_MAX) if found else 0.0


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """A digest of what was asked, to tell a repeat from a different request under the same key."""
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), body))).digest()


def encode_page_token(key: str) -> str:
    """The key of the next page as an opaque token; "" stays "": the last page."""
    return base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode() if key else ""


def decode_page_token(token: str) -> str:
    """The key behind a token; "" is the first page. Raises Invalid."""
    if not token:
        return ""
    with suppress(binascii.Error, UnicodeDecodeError, ValueError):
        if len(token) <= PAGE_TOKEN_LETTERS_MAX:
            return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    raise Invalid("page_token is not one we gave out", code="page-token-invalid")


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer encoded by msgspec: dataclasses and datetimes as they are."""
    return Response(msgspec.json.encode(body), status, dict(headers or {}), "application/json")
