"""Errors as HTTP tells them: problem details (RFC 9457), every one of them, whoever found it."""

import math
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

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
from libs.telemetry.tracing import current_ids

PROBLEM = "application/problem+json"
IDEMPOTENCY_KEY = "Idempotency-Key"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# What a caller waits who was not told how long.
RETRY_AFTER_SECONDS = 1.0
# Of a body that is wrong everywhere, enough to begin with.
FIELD_PROBLEMS_MAX = 20

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

_NOTHING_HAPPENED = frozenset({429, 503})
_FRAMEWORK_CODES: Mapping[int, str] = {
    400: "body-unreadable",
    413: "body-too-large",
    415: "media-type-not-supported",
}


class FieldProblem(BaseModel):
    """One field that is wrong: `/body/lines/0/quantity`, `/query/page_size`, `/header/Prefer` (as in RFC 6901)."""

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


def problem_response(
    status: int,
    code: str,
    detail: str,
    path: str,
    *,
    details: Mapping[str, str] | None = None,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as an HTTP answer; `path` is the request's, decoded."""
    body = {
        "type": f"/problems/{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "instance": quote(path),
        "code": code,
        "trace_id": current_ids()[0],
        **({"details": dict(details)} if details else {}),
        **({"errors": [error.model_dump() for error in errors]} if errors else {}),
    }
    return Response(msgspec.json.encode(body), status_code=status, media_type=PROBLEM, headers=dict(headers or {}))


def status_of(error: DockyardError) -> int:
    """The HTTP status of an error, by the nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


async def on_dockyard_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DockyardError)
    status = status_of(error)
    if status == 500:
        raise error  # a bug of ours: logged and answered like every other, by the entrance
    retry = error.retry_after_seconds or (RETRY_AFTER_SECONDS if status in _NOTHING_HAPPENED else None)
    headers = {"Retry-After": str(math.ceil(retry))} if retry else None
    return problem_response(
        status, error.code, error.message, request.scope["path"], details=error.details, headers=headers
    )


async def on_validation_error(request: Request, error: Exception) -> Response:
    """422 for a body or a parameter, but 400 for the idempotency key, as its draft wants."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:FIELD_PROBLEMS_MAX]
    problems = [FieldProblem(pointer=_pointer(one["loc"]), detail=one["msg"]) for one in found]
    about_key = next((one for one in found if tuple(one["loc"]) == ("header", IDEMPOTENCY_KEY)), None)
    if about_key is not None:
        missing = about_key["type"] == "missing"
        status, code = 400, "idempotency-key-missing" if missing else "idempotency-key-invalid"
        detail = (
            f"this request needs an {IDEMPOTENCY_KEY} header"
            if missing
            else f"{IDEMPOTENCY_KEY} is 1 to 255 visible characters"
        )
    else:
        status, code = 422, "invalid-request"
        detail = "; ".join(f"{problem.pointer}: {problem.detail}" for problem in problems[:3])
    return problem_response(status, code, detail, request.scope["path"], errors=problems)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such path, method or media type, a body it cannot read."""
    assert isinstance(error, HTTPException)
    status, path, headers = error.status_code, request.scope["path"], dict(error.headers or {})
    match status:
        case 404:
            return problem_response(404, "no-such-path", "nothing is here", path, headers=headers)
        case 405:
            allowed = ", ".join(_allowed(request))
            detail = f"{request.method} is not supported here, {allowed} is"
            return problem_response(405, "method-not-allowed", detail, path, headers={**headers, "Allow": allowed})
        case _:
            code = _FRAMEWORK_CODES.get(status, f"http-{status}")
            return problem_response(status, code, str(error.detail), path, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Every method this path has (RFC 9110 §10.2.1); the framework names those of the first route only."""
    scope = dict(request.scope)
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def _pointer(location: Sequence[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
