"""One order is one connected trace through all five processes, whether it succeeds or is undone."""

from collections import Counter

from libs.telemetry import names
from tests.e2e.collector import Collector, Span
from tests.e2e.shop import ANTARCTICA, HARBOUR, Shop

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
ANOTHER_ID = "5cf92f3577b34da6a3ce929d0e0e4737"
CALLER = "00f067aa0ba902b7"


# What each process tells last: when these are there, and nobody lacks a parent, the trace is whole.
CONFIRMED = {
    ("order", names.HTTP_REQUEST),
    ("order", names.PROJECT),
    ("order", names.PUBLISH),
    ("inventory", names.COMMAND),
    ("payment", names.CHARGE_CARD),
    ("psp", names.HTTP_REQUEST),
    ("psp", names.SQL_STATEMENTS),
    ("shipping", names.COMMAND),
    ("shipping", names.CONSUME),
}
UNDONE = {
    ("order", names.HTTP_REQUEST),
    ("order", names.SAGA_UNDO),
    ("inventory", names.COMMAND),
    ("payment", names.REFUND_CARD),
    ("psp", names.HTTP_REQUEST),
    ("shipping", names.COMMAND),
}


def placed(shop: Shop, trace_id: str, ship_to: dict[str, str]) -> None:
    response = shop.place(ship_to=ship_to, traceparent=f"00-{trace_id}-{CALLER}-01")
    assert response.status_code == 201, response.text


def edges(spans: list[Span]) -> Counter[tuple[str, str]]:
    """How often each kind of span is the parent of each other kind: "service name" each."""
    by_id = {span.span_id: span for span in spans}
    return Counter((label(by_id[span.parent_id]), label(span)) for span in spans if span.parent_id in by_id)


def label(span: Span) -> str:
    step = span.attributes.get(names.SAGA_STEP) or span.attributes.get(names.COMMAND_STEP)
    return f"{span.service} {span.name}" + (f" {step}" if step else "")


def assert_connected(spans: list[Span]) -> None:
    """Every span but the caller's children has its parent in the trace."""
    ids = {span.span_id for span in spans}
    orphans = [label(span) for span in spans if span.parent_id not in ids and span.parent_id != CALLER]
    assert orphans == []


def test_a_confirmed_order_is_one_connected_trace_through_every_service(shop: Shop, collector: Collector) -> None:
    placed(shop, TRACE_ID, HARBOUR)
    spans = collector.trace(TRACE_ID, until=CONFIRMED)
    assert_connected(spans)
    found = edges(spans)
    for step, service in (("deduct-stock", "inventory"), ("charge", "payment"), ("book-shipment", "shipping")):
        assert found[f"order {names.SAGA_DO} {step}", f"{service} {names.COMMAND} {step}"] == 1, step
    assert found[f"payment {names.COMMAND} charge", f"payment {names.CHARGE_CARD}"] == 1
    assert found[f"payment {names.CHARGE_CARD}", f"psp {names.HTTP_REQUEST}"] == 1
    assert found[f"order {names.HTTP_REQUEST}", f"order {names.PLACE_ORDER}"] == 1
    services = {span.service for span in spans if span.name in {names.SQL_TRANSACTION, names.SQL_STATEMENTS}}
    assert services == {"order", "inventory", "payment", "shipping", "psp"}
    assert {span.service for span in spans if span.name == names.CONSUME} == {"shipping"}


def test_an_undone_order_shows_its_compensations_in_the_same_trace(shop: Shop, collector: Collector) -> None:
    placed(shop, ANOTHER_ID, ANTARCTICA)
    spans = collector.trace(ANOTHER_ID, until=UNDONE)
    assert_connected(spans)
    found = edges(spans)
    for step, service in (("charge", "payment"), ("deduct-stock", "inventory")):
        assert found[f"order {names.SAGA_UNDO} {step}", f"{service} {names.COMMAND} {step}"] == 1, step
    assert found[f"payment {names.REFUND_CARD}", f"psp {names.HTTP_REQUEST}"] == 1
