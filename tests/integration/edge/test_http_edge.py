"""What every service's callers see over HTTP, on a real socket."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel, ConfigDict, Field

from libs.kernel.errors import DockyardError, InDoubt, Invalid, NotFound, Overloaded, Refused, StillRunning, Unavailable
from libs.runtime.http_edge import BODY_BYTES_MAX, create_app, idempotency_key
from libs.runtime.problems import PROBLEM, Problem
from libs.telemetry import names
from libs.telemetry.tracing import current_traceparent, span, use_provider
from tests.integration.edge.serving import serve_http

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
KEY = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}
SECRET = "the password is hunter2"

ERRORS: dict[str, DockyardError] = {
    "invalid": Invalid("zone is two letters"),
    "not-found": NotFound("no such berth"),
    "refused": Refused("the crane is taken", code="crane-taken", details={"crane": "7"}),
    "still-running": StillRunning("wait for it", retry_after_seconds=2.2),
    "unavailable": Unavailable("the gate is closed", retry_after_seconds=7),
    "overloaded": Overloaded("too many ships"),
    "in-doubt": InDoubt("it may have sailed"),
    "bug": DockyardError(SECRET),
}


class BerthIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ship: str = Field(min_length=1, max_length=20)
    metres: int = Field(ge=1)


class BerthOut(BaseModel):
    ship: str
    key: str


def berths(leaving: asyncio.Event) -> APIRouter:
    """A harbour: enough of a service to see its entrance."""
    routes = APIRouter(prefix="/v1", tags=["berths"])

    @routes.post("/berths", status_code=201, response_model=BerthOut)
    async def book(berth: BerthIn, key: Annotated[str, Depends(idempotency_key)]) -> BerthOut:
        return BerthOut(ship=berth.ship, key=key)

    @routes.get("/berths")
    async def listed(limit: Annotated[int, Query(ge=1, le=10)] = 5) -> list[int]:
        return list(range(limit))

    @routes.get("/berths/{number}")
    async def show(number: str) -> dict[str, str]:
        with span(names.PLACE_ORDER):
            return {"number": number, "traceparent": current_traceparent()}

    @routes.delete("/berths/{number}", status_code=204)
    async def leave(number: str) -> None: ...

    @routes.get("/errors/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name]

    @routes.get("/crash")
    async def crash() -> None:
        raise RuntimeError(SECRET)

    @routes.get("/breaks-off")
    async def break_off() -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"half of"
            raise RuntimeError(SECRET)

        return StreamingResponse(body(), headers={"content-length": "100"})

    @routes.post("/slow-body")
    async def slow(request: Request) -> None:
        try:
            await request.body()
        finally:
            leaving.set()

    return routes


class Gate:
    """What /readyz asks."""

    open = True

    async def check(self) -> None:
        if not self.open:
            raise Unavailable("the database cannot be reached")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def leaving() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def app(gate: Gate, leaving: asyncio.Event) -> FastAPI:
    return create_app("harbour", "Berths.", berths(leaving), [gate.check])


@pytest_asyncio.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://harbour") as fast:
        yield fast


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_provider(provider)
    yield exporter
    use_provider(None)
    provider.shutdown()


def problem_of(answer: httpx.Response) -> Problem:
    """The answer's problem, exactly of the documented form."""
    assert answer.headers["content-type"] == PROBLEM
    problem = Problem.model_validate_json(answer.content)
    assert set(answer.json()) <= set(Problem.model_fields)
    assert problem.status == answer.status_code
    assert problem.type == f"/problems/{problem.code}"
    assert len(problem.trace_id) == 32 and int(problem.trace_id, 16)
    return problem


async def test_it_serves(app: FastAPI) -> None:
    async with serve_http(app) as client:
        answer = await client.post("/v1/berths", json={"ship": "Ada", "metres": 40}, headers=KEY)
        assert (answer.status_code, answer.json()) == (201, {"ship": "Ada", "key": KEY["Idempotency-Key"]})


@pytest.mark.parametrize(
    ("name", "status", "code", "retry_after"),
    [
        ("invalid", 400, "invalid", None),
        ("not-found", 404, "not-found", None),
        ("refused", 409, "crane-taken", None),
        ("still-running", 409, "still-running", "3"),
        ("unavailable", 503, "unavailable", "7"),
        ("overloaded", 429, "overloaded", "1"),
        ("in-doubt", 504, "in-doubt", None),
    ],
)
async def test_an_error_is_a_problem(
    client: httpx.AsyncClient, name: str, status: int, code: str, retry_after: str | None
) -> None:
    answer = await client.get(f"/v1/errors/{name}")
    problem = problem_of(answer)
    assert (problem.status, problem.code, problem.detail) == (status, code, ERRORS[name].message)
    assert problem.instance == f"/v1/errors/{name}"
    assert problem.details == dict(ERRORS[name].details)
    assert answer.headers.get("retry-after") == retry_after


@pytest.mark.parametrize("path", ["/v1/crash", "/v1/errors/bug"])
async def test_a_bug_is_told_as_no_more_than_that_and_logged_once(
    app: FastAPI, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with serve_http(app) as client:
        answer = await client.get(path)
    problem = problem_of(answer)
    assert (problem.status, problem.code) == (500, "internal")
    assert "hunter2" not in answer.text and "Traceback" not in answer.text
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == ["request failed"]
    assert errors[0].exc_info is not None and SECRET in str(errors[0].exc_info[1])


async def test_an_answer_that_breaks_off_is_dropped_not_completed(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_http(app) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/v1/breaks-off")
        assert (await client.get("/healthz")).status_code == 200
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert [record.getMessage() for record in tracebacks] == ["request failed"]


async def test_a_caller_that_leaves_is_no_error(
    app: FastAPI, leaving: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_http(app) as client:
        url = client.base_url
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"POST /v1/slow-body HTTP/1.1\r\nHost: harbour\r\nContent-Length: 100\r\n\r\nhalf of")
        await writer.drain()
        writer.close()
        await asyncio.wait_for(leaving.wait(), 5)
        await client.get("/healthz")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_path_that_is_not_there_is_a_problem(client: httpx.AsyncClient) -> None:
    problem = problem_of(await client.get("/v1/no such/path"))
    assert (problem.status, problem.code, problem.instance) == (404, "no-such-path", "/v1/no%20such/path")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/berths", {"GET", "POST"}), ("/v1/berths/7", {"GET", "DELETE"}), ("/healthz", {"GET"})],
)
async def test_a_method_that_is_not_there_is_a_problem_and_the_others_are_named(
    client: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    answer = await client.put(path)
    assert problem_of(answer).status == 405
    assert set(answer.headers["allow"].split(", ")) == allowed


async def test_every_field_that_is_wrong_is_named(client: httpx.AsyncClient) -> None:
    wrong = {"ship": "", "metres": 0, "a/b~c": 1}
    problem = problem_of(await client.post("/v1/berths", json=wrong, headers=KEY))
    assert (problem.status, problem.code) == (422, "invalid-request")
    assert {error.pointer for error in problem.errors} == {"/body/ship", "/body/metres", "/body/a~1b~0c"}
    problem = problem_of(await client.get("/v1/berths", params={"limit": 99}))
    assert [error.pointer for error in problem.errors] == ["/query/limit"]


@pytest.mark.parametrize(
    ("body", "media_type"),
    [(b"{", "application/json"), (b"\xff", "application/json"), (b"{}", "text/plain"), (b"", "application/json")],
)
async def test_a_body_that_cannot_be_read_is_a_problem(client: httpx.AsyncClient, body: bytes, media_type: str) -> None:
    answer = await client.post("/v1/berths", content=body, headers={**KEY, "Content-Type": media_type})
    assert problem_of(answer).status in {400, 422}


async def test_errors_are_named_up_to_a_limit(client: httpx.AsyncClient) -> None:
    wrong = {f"field-{number}": 1 for number in range(1000)}
    assert len(problem_of(await client.post("/v1/berths", json=wrong, headers=KEY)).errors) <= 20


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "idempotency-key-missing"),
        ({"Idempotency-Key": ""}, "idempotency-key-invalid"),
        ({"Idempotency-Key": "k" * 256}, "idempotency-key-invalid"),
        ({"Idempotency-Key": "two words"}, "idempotency-key-invalid"),
        ({"Idempotency-Key": "schlüssel".encode()}, "idempotency-key-invalid"),
    ],
)
async def test_a_write_needs_a_usable_idempotency_key(
    client: httpx.AsyncClient, headers: dict[str, Any], code: str
) -> None:
    problem = problem_of(await client.post("/v1/berths", json={"ship": "Ada", "metres": 40}, headers=headers))
    assert (problem.status, problem.code) == (400, code)


async def test_the_longest_key_is_taken(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k" * 255}
    answer = await client.post("/v1/berths", json={"ship": "Ada", "metres": 40}, headers=headers)
    assert answer.json()["key"] == "k" * 255


async def test_a_body_has_a_limit_whether_or_not_it_says_its_size(app: FastAPI) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (BODY_BYTES_MAX // 2)

    headers = {**KEY, "Content-Type": "application/json"}
    async with serve_http(app) as client:
        for body in (b" " * (BODY_BYTES_MAX + 1), chunks()):
            problem = problem_of(await client.post("/v1/berths", content=body, headers=headers))
            assert (problem.status, problem.code) == (413, "body-too-large")
        just_right = b'{"ship":"Ada","metres":40}'.ljust(BODY_BYTES_MAX)
        assert (await client.post("/v1/berths", content=just_right, headers=headers)).status_code == 201


async def test_it_is_live_but_ready_only_while_it_can_work(client: httpx.AsyncClient, gate: Gate) -> None:
    assert (await client.get("/readyz")).status_code == 200
    gate.open = False
    answer = await client.get("/readyz")
    assert problem_of(answer).detail == "the database cannot be reached"
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert (await client.get("/healthz")).status_code == 200


# Documents.


async def test_the_document_describes_the_problem_of_every_operation(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) >= 8
    for operation in operations:
        assert operation["responses"]["default"]["content"] == {
            PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
        assert "422" not in operation["responses"]
    assert set(document["components"]["schemas"]["Problem"]["properties"]) == set(Problem.model_fields)


async def test_every_reference_in_the_document_leads_somewhere(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = set(references(document))
    assert found >= {"#/components/schemas/Problem", "#/components/schemas/FieldProblem"}
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


async def test_the_document_describes_the_idempotency_key(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    (key,) = document["paths"]["/v1/berths"]["post"]["parameters"]
    assert (key["name"], key["in"], key["required"]) == ("Idempotency-Key", "header", True)
    assert (key["schema"]["minLength"], key["schema"]["maxLength"]) == (1, 255)


# Traces and metrics.


async def test_a_callers_trace_goes_on_and_a_new_one_is_begun_without(client: httpx.AsyncClient) -> None:
    traceparent = f"00-{TRACE}-{SPAN}-01"
    answer = await client.get("/v1/berths/7", headers={"traceparent": traceparent})
    assert answer.json()["traceparent"] == traceparent
    begun = (await client.get("/v1/berths/7")).json()["traceparent"]
    assert len(begun) == 55 and TRACE not in begun
    assert problem_of(await client.get("/nowhere", headers={"traceparent": traceparent})).trace_id == TRACE


async def test_a_request_is_a_span_between_its_caller_and_its_work(
    client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    await client.get("/v1/berths/7", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    inner, outer = spans.get_finished_spans()
    assert (inner.name, outer.name) == (names.PLACE_ORDER, names.HTTP_REQUEST)
    assert parent(outer) == int(SPAN, 16) and parent(inner) == outer.context.span_id
    assert outer.context.trace_id == inner.context.trace_id == int(TRACE, 16)
    assert outer.kind is SpanKind.SERVER
    assert outer.attributes == {
        names.HTTP_METHOD: "GET",
        names.HTTP_ROUTE: "/v1/berths/{number}",
        names.HTTP_STATUS: 200,
    }


def parent(of: ReadableSpan) -> int:
    assert of.parent is not None
    return of.parent.span_id


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/crash", StatusCode.ERROR), ("/v1/errors/unavailable", StatusCode.ERROR), ("/nowhere", StatusCode.UNSET)],
)
async def test_a_span_fails_with_our_failures_only(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, path: str, status: StatusCode
) -> None:
    await client.get(path)
    (ended,) = spans.get_finished_spans()
    assert ended.status.status_code is status


async def test_a_caller_that_does_not_sample_costs_no_span(
    client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    assert (await client.get("/v1/berths/7", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})).status_code == 200
    assert spans.get_finished_spans() == ()


async def test_labels_stay_few_whatever_is_asked(client: httpx.AsyncClient) -> None:
    def labels(text: str) -> set[str]:
        return {line.partition("}")[0] for line in text.splitlines() if line.startswith(names.METRIC_HTTP_REQUESTS)}

    for method, path in (("GET", "/v1/berths/0"), ("GET", "/nowhere/0"), ("BREW0", "/v1/berths/0")):
        await client.request(method, path)
    before = labels((await client.get("/metrics")).text)
    for number in range(1, 20):
        await client.get(f"/v1/berths/{number}")
        await client.get(f"/nowhere/{number}")
        await client.request(f"BREW{number}", "/v1/berths/0")
    answer = await client.get("/metrics")
    assert labels(answer.text) - before <= {label for label in labels(answer.text) if 'route="/metrics"' in label}
    assert f'{names.METRIC_HTTP_SECONDS}_bucket{{le="+Inf",route="/v1/berths/{{number}}"}}' in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
