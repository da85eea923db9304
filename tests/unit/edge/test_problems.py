import msgspec
import pytest

from libs.kernel.errors import DockyardError, Refused
from libs.runtime.problems import STATUS, TITLES, Problem, problem_response, status_of
from libs.telemetry.tracing import start_root
from tests.unit.edge.tree import tree, unmapped

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

# What design and contracts promise to callers; a change here breaks them.
PROMISED = {
    "Invalid": 400,
    "NotFound": 404,
    "Conflict": 409,
    "StillRunning": 409,
    "Mismatch": 422,
    "Refused": 409,
    "Unavailable": 503,
    "Overloaded": 429,
    "InDoubt": 504,
    "DockyardError": 500,
}


def test_every_error_has_its_http_status() -> None:
    assert unmapped(DockyardError, STATUS) == set()
    assert {kind.__name__: status for kind, status in STATUS.items()} == PROMISED


def test_an_error_that_the_table_forgot_is_found() -> None:
    class Root(Exception):
        __module__ = "libs.kernel.errors"

    class Known(Root):
        __module__ = "libs.kernel.errors"

    class Derived(Known):
        __module__ = "services.order.domain"

    class Forgotten(Root):
        __module__ = "services.order.domain"

    class Workbench(Root):
        __module__ = "dockyard.cli"

    assert set(tree(Root)) == {Root, Known, Derived, Forgotten, Workbench}
    assert unmapped(Root, {Root: 500, Known: 400}) == {Forgotten}
    assert unmapped(Root, {Known: 400}) == {Root, Forgotten}


@pytest.mark.parametrize("kind", [kind for kind in STATUS if kind.__base__ is DockyardError])
def test_each_kind_of_error_would_be_missed(kind: type[DockyardError]) -> None:
    table = {other: status for other, status in STATUS.items() if other is not kind}
    assert unmapped(DockyardError, table) == {kind}


def test_an_error_of_a_service_is_mapped_like_what_it_derives_from() -> None:
    class CardDeclined(Refused):
        pass

    assert status_of(CardDeclined("no")) == 409


def test_every_status_has_its_title() -> None:
    assert set(STATUS.values()) <= set(TITLES)


def test_a_problem_says_what_why_where_and_under_which_trace() -> None:
    with start_root(TRACEPARENT):
        response = problem_response(
            409, "card-declined", "the bank says no", "/v1/orders/ord 1", details={"bank": "harbour"}
        )
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    body = msgspec.json.decode(response.body)
    assert body == {
        "type": "/problems/card-declined",
        "title": "The state does not allow it",
        "status": 409,
        "detail": "the bank says no",
        "instance": "/v1/orders/ord%201",
        "code": "card-declined",
        "trace_id": TRACEPARENT[3:35],
        "details": {"bank": "harbour"},
    }
    Problem.model_validate(body, extra="forbid")


@pytest.mark.parametrize("kind", list(STATUS))
def test_every_error_can_be_told(kind: type[DockyardError]) -> None:
    error = kind("sentence")
    response = problem_response(status_of(error), error.code, error.message, "/", details=error.details)
    problem = Problem.model_validate_json(bytes(response.body))
    assert (problem.code, problem.detail, problem.status) == (error.code, "sentence", STATUS[kind])
