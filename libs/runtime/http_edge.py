"""The HTTP entrance every service shares: traces, metrics, limits, problems, idempotency keys, page tokens."""

import base64
import binascii
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, Header, Response
from fastapi.exceptions import RequestValidationError
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.kernel.errors import DockyardError, Invalid
from libs.runtime.clock import SystemClock
from libs.runtime.problems import (
    IDEMPOTENCY_KEY,
    METHODS,
    PROBLEM,
    Problem,
    on_dockyard_error,
    on_http_exception,
    on_validation_error,
    problem_response,
)
from libs.telemetry import metrics, names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import is_recording, span, start_root

DOCKYARD_POSITION = "Dockyard-Position"
DOCKYARD_AFTER = "Dockyard-After"
# The largest order has 100 lines, about 10 KiB; a catalogue page of 1,000 products about 150 KiB.
BODY_BYTES_MAX = 256 * 1024
WAIT_SECONDS_MAX = 60.0
KEY_LETTERS_MAX = 255
PAGE_TOKEN_LETTERS_MAX = 200
# What other servers write when the caller left before the answer; only metrics see it.
CLIENT_LEFT = 499

log = get_logger(__name__)

_KNOWN_METHODS = frozenset(METHODS)
_PREFER_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6}(?:\.\d+)?)\"?", re.IGNORECASE)
_SCHEMAS = "#/components/schemas/"
_TOO_LARGE = f"a body has at most {BODY_BYTES_MAX} bytes"
_monotonic = SystemClock().monotonic

Ready = Callable[[], Awaitable[None]]


def create_app(service: str, description: str, router: APIRouter, ready: Sequence[Ready] = ()) -> FastAPI:
    """The service's HTTP application: its own routes behind the entrance they all share.

    `ready` are awaited by /readyz and raise what keeps the service from being useful.
    """
    app = _Application(
        title=f"Dockyard {service}",
        description=description,
        version="1",
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        # Spans and metrics are ours, below; the framework's own would be the same request a second time.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        responses={
            "default": {
                "description": "Any error",
                "content": {PROBLEM: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}},
                "headers": {
                    "Retry-After": {"description": "Seconds to wait before the retry", "schema": {"type": "integer"}}
                },
            }
        },
    )
    app.include_router(router)
    app.include_router(_operations(ready))
    app.add_exception_handler(DockyardError, on_dockyard_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(_Entrance)
    return app


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The framework's document, with the schema that every error has."""
        document = super().openapi()
        problem = Problem.model_json_schema(ref_template=_SCHEMAS + "{model}")
        parts = problem.pop("$defs")
        document.setdefault("components", {}).setdefault("schemas", {}).update({**parts, "Problem": problem})
        return document


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
        began = _monotonic()
        with start_root(_header(scope, b"traceparent")):
            if is_recording():
                attributes = {names.HTTP_METHOD: _method(scope)}
                with span(names.HTTP_REQUEST, kind=SpanKind.SERVER, attributes=attributes) as current:
                    status = await self._serve(scope, receive, send)
                    _describe(current, scope, status)
            else:
                status = await self._serve(scope, receive, send)
        route = _route(scope)
        metrics.HTTP_REQUESTS.labels(_method(scope), route, status).inc()
        metrics.HTTP_SECONDS.labels(route).observe(_monotonic() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> int:
        """The status that went out."""
        status = 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if _too_large(scope):
                await _problem(413, "body-too-large", _TOO_LARGE, scope, receive, watched_send)
            else:
                await self._app(scope, _limited(receive), watched_send)
        except ClientDisconnect:
            status = CLIENT_LEFT
        except Exception:  # the outermost loop of a request: nothing internal leaves, everything is logged once
            log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
            # Once the answer has begun all we can do is leave it unfinished: the server then drops the connection.
            if not status:
                detail = "the error is logged under this trace id"
                await _problem(500, "internal", detail, scope, receive, watched_send)
        return status


async def _problem(status: int, code: str, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    await problem_response(status, code, detail, scope["path"])(scope, receive, send)


def _describe(current: Span | None, scope: Scope, status: int) -> None:
    if current is not None:
        current.set_attribute(names.HTTP_ROUTE, _route(scope))
        current.set_attribute(names.HTTP_STATUS, status)
        if status >= 500:
            current.set_status(Status(StatusCode.ERROR))


def _too_large(scope: Scope) -> bool:
    declared = _header(scope, b"content-length")
    return declared.isdecimal() and int(declared) > BODY_BYTES_MAX


def _limited(receive: Receive) -> Receive:
    """The same body, up to the limit: a chunked one does not say its size beforehand."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_BYTES_MAX:
            # Of the errors raised while a body is read the framework lets only its own kind through.
            raise HTTPException(413, _TOO_LARGE)
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


def _method(scope: Scope) -> str:
    """A label with few values, whatever methods people invent; `_OTHER` as OpenTelemetry has it."""
    method: str = scope["method"]
    return method if method in _KNOWN_METHODS else "_OTHER"


# A coroutine, so that it does not cost a trip to a thread.
async def idempotency_key(
    key: Annotated[
        str,
        Header(
            alias=IDEMPOTENCY_KEY,
            min_length=1,
            max_length=KEY_LETTERS_MAX,
            pattern=r"^[!-~]+$",
            description="Any text unique to this request: a repeat under the same key gets the same answer",
            examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        ),
    ],
) -> str:
    """The caller's key (draft-ietf-httpapi-idempotency-key-header); one missing or unusable is answered 400."""
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
