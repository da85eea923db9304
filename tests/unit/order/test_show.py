"""`dockyard order show` for people: offsets in milliseconds, what is kept, and what an unfinished order waits for."""

from datetime import UTC, datetime
from io import StringIO
from typing import Any

from rich.console import Console

from dockyard.commands.order import _story

NOW = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
ORDER = {
    "order_id": "ord_1", "status": "pending", "reason": "", "parked_reason": "", "customer_id": "ada",
    "total": {"minor_units": 9800, "currency": "EUR"}, "lines": [{"sku": "lamp", "quantity": 2}],
    "placed_at": "2026-01-31T12:00:00Z",
}  # fmt: skip


def entry(second: str, service: str, what: str, kind: str, **more: Any) -> dict[str, Any]:
    at = f"2026-01-31T12:00:{second}Z"
    return {"at": at, "service": service, "what": what, "step": "", "attempt": 0, "detail": "", "kind": kind, **more}


def timeline(**more: Any) -> dict[str, Any]:
    entries = [
        entry("00", "order", "OrderPlaced", "event"),
        entry("00.012345", "payment", "card authorised", "effect"),
        entry("01.500", "inventory", "hold-stock unavailable", "log", attempt=2),
        entry("05", "inventory", "unavailable", "unavailable", detail="refused"),
    ]
    found: dict[str, Any] = {
        "coordination": "tcc",
        "state": "running",
        "waits_for": "",
        "waits_since": None,
        "kept": [],
    }
    return {"order_id": "ord_1", "entries": entries, **found, **more}


def told(story: dict[str, Any]) -> list[list[str]]:
    """Each line's words between the table's bars."""
    shown = StringIO()
    Console(file=shown, width=120).print(_story(ORDER, story, NOW))
    lines = shown.getvalue().splitlines()
    return [[cell.strip() for cell in line.strip().strip("│").split("│")] for line in lines]


def test_everything_is_shown_with_its_offset_and_a_missing_service_with_none() -> None:
    lines = told(timeline())
    assert ["tcc order, running; 0 ms is 2026-01-31 12:00:00 UTC"] in lines
    assert ["12", "payment", "card authorised"] in [line[:3] for line in lines]
    assert ["1,500", "inventory", "hold-stock unavailable", "2"] in [line[:4] for line in lines]
    assert ["", "inventory", "unavailable", "", "refused"] in lines


def test_what_is_kept_is_shown_with_how_long_and_whether_it_still_is() -> None:
    since = "2026-01-31T12:00:00.012Z"
    kept = [
        {"what": "money authorised", "service": "payment", "since": since, "until": None},
        {"what": "stock held", "service": "inventory", "since": since, "until": "2026-01-31T12:00:01.262Z"},
    ]
    lines = told(timeline(kept=kept))
    assert ["12", "payment", "money authorised", "5.0 s, still"] in lines
    assert ["12", "inventory", "stock held", "1,250 ms"] in lines


def test_an_unfinished_order_says_what_it_waits_for_since_how_long() -> None:
    lines = told(timeline(waits_for="hold-stock (try 3)", waits_since="2026-01-31T12:00:01.500Z"))
    assert lines[-1] == ["waits for hold-stock (try 3) since 3.5 s"]


def test_one_that_has_ended_waits_for_nothing() -> None:
    assert not any("waits" in cell for line in told(timeline(state="completed")) for cell in line)
