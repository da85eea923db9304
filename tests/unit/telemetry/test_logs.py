import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from libs.telemetry.logs import configure_logging, get_logger
from libs.telemetry.tracing import start_root

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Lines:
    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def one(self) -> dict[str, Any]:
        (line,) = self.all()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged at INFO and above; logging is as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("order", "INFO", stream)
    yield Lines(stream)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_says_when_who_where_and_what(lines: Lines) -> None:
    get_logger("services.order.handlers").info("order %s placed", "ord_1")
    line = lines.one()
    assert line.pop("ts").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "service": "order",
        "logger": "services.order.handlers",
        "message": "order ord_1 placed",
    }


def test_a_line_carries_the_ids_it_is_about(lines: Lines) -> None:
    with start_root(TRACEPARENT):
        get_logger("saga").warning("parked", extra={"order_id": "ord_1", "saga_id": "sag_1", "attempt": 3})
    line = lines.one()
    assert (line["order_id"], line["saga_id"], line["attempt"]) == ("ord_1", "sag_1", 3)
    assert (line["trace_id"], line["span_id"]) == (TRACEPARENT[3:35], TRACEPARENT[36:52])


def test_nothing_extra_can_pretend_to_be_another_service(lines: Lines) -> None:
    get_logger("saga").info("done", extra={"service": "payment", "level": "DEBUG", "ts": "yesterday"})
    line = lines.one()
    assert (line["service"], line["level"]) == ("order", "INFO") and line["ts"] != "yesterday"


def test_a_traceback_is_one_line_too(lines: Lines) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        get_logger("saga").exception("failed")
    line = lines.one()
    assert line["level"] == "ERROR"
    assert "Traceback" in line["exception"] and "two\nlines" in line["exception"]


def test_what_a_customer_types_cannot_forge_a_line(lines: Lines) -> None:
    get_logger("saga").info("name is %s", 'Ada"}\n{"level":"ERROR"}')
    assert lines.one()["message"] == 'name is Ada"}\n{"level":"ERROR"}'


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        ({"lamp"}, ["lamp"]),
        (ValueError("odd"), "odd"),
        (10**30, 10**30),
        ({1: b"\xff"}, {"1": "/w=="}),
        (float("nan"), None),
        ("\udcff", "\udcff"),
    ],
)
def test_no_value_loses_a_line(lines: Lines, value: object, logged: object) -> None:
    get_logger("saga").info("odd", extra={"value": value})
    assert lines.one()["value"] == logged


def test_what_is_below_the_level_is_not_logged(lines: Lines) -> None:
    get_logger("saga").debug("too much")
    assert lines.all() == []


def test_other_peoples_chatter_is_left_out_their_warnings_are_not(lines: Lines) -> None:
    for name in ("uvicorn.error", "httpx", "alembic"):
        get_logger(name).info("Started server process")
        get_logger(name).warning("something is wrong")
    assert [line["message"] for line in lines.all()] == ["something is wrong"] * 3
