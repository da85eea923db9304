"""Every style is killed at each of its named places: in the order service, and in every participant.

What an order left behind afterwards is what one of the same kind left that nobody disturbed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from libs.messaging.relay import AFTER_PUBLISH, BEFORE_PUBLISH
from libs.saga.executor import failpoints_of
from services.order.domain import ORCHESTRATED, TCC, TWO_PHASE
from services.order.saga import CHECKOUTS
from tests.conftest import KILLED
from tests.e2e.shop import ANTARCTICA, HARBOUR
from tests.integration.coordination.yard import Yard

CHOREOGRAPHED = "choreographed"
SCENARIOS = {"confirmed": HARBOUR, "rejected": ANTARCTICA}
# Reached only by a process that finds another's order unfinished: it is killed in its turn.
TAKEOVERS = ("saga.before-write:TakenUp", "saga.after-write:TakenUp")
# The steps after which nothing of a checkout is refused any more, and the one that is refused to an unserved country.
REFUSED = {ORCHESTRATED: "book-shipment", TCC: "hold-shipment", TWO_PHASE: "prepare-shipment"}
# The service's own commits and calls on the way of one order: the first one has an effect, the next makes it final.
COMMITS = {
    "inventory": ("inventory.commit.before", "inventory.commit.after"),
    "payment": ("payment.commit.before", "payment.commit.after", "payment.call.before", "payment.call.after"),
    "shipping": ("shipping.commit.before", "shipping.commit.after"),
}
PREPARES = ("twophase.before-prepare", "twophase.after-prepare", "twophase.before-commit", "twophase.after-commit")
ORDER_COMMITS = ("order.commit.before", "order.commit.after", "order.commit.before@2", "order.commit.after@2")


@dataclass(frozen=True, slots=True)
class Point:
    """Where which service is killed, on the way of an order that ends how."""

    style: str
    outcome: str
    service: str
    failpoint: str

    def __str__(self) -> str:
        return f"{self.style}-{self.outcome}-{self.service}-{self.failpoint}"


def _points() -> Iterator[Point]:
    for style in CHECKOUTS:
        for outcome in SCENARIOS:
            yield from (Point(style, outcome, "order", name) for name in _coordinators(style, outcome))
        for service, names in COMMITS.items():
            for name in names:
                yield Point(style, "confirmed", service, name)
                # What is prepared is no commit of the service's own, but the card is authorised in one.
                if style == TCC or (style == TWO_PHASE and service == "payment"):
                    yield Point(style, "confirmed", service, f"{name}@2")
    # Before shipping refuses, the others have held, prepared or charged: their next commit takes it back.
    for style, service in product((TCC, TWO_PHASE), ("inventory", "payment")):
        nth = "" if (style, service) == (TWO_PHASE, "inventory") else "@2"
        yield from (Point(style, "rejected", service, f"{name}{nth}") for name in COMMITS[service][:2])
    for service in COMMITS:
        yield from (Point(TWO_PHASE, "confirmed", service, name) for name in PREPARES)
    yield from _choreographed()


def _coordinators(style: str, outcome: str) -> list[str]:
    """What the run of a checkout passes: going on, all dos; going back, the refused do, and the undos."""
    saga, refused = CHECKOUTS[style], REFUSED[style]
    names = [name for name in failpoints_of(saga) if name not in TAKEOVERS and not name.endswith(":Parked")]
    if outcome == "confirmed":
        going_on = [name for name in names if not name.endswith((".undo", ":UndoDecided"))]
        return [*ORDER_COMMITS, *going_on]
    back = [name for name in names if name.endswith((".undo", ":UndoDecided", ":Ended", f":{refused}.do"))]
    return [*ORDER_COMMITS[2:], *(name for name in back if f":{refused}.undo" not in name)]


def _choreographed() -> Iterator[Point]:
    for service in ("order", "inventory", "payment", "shipping"):
        names = [f"consumer.{moment}-commit:{service}-checkouts" for moment in ("before", "after")]
        names += [BEFORE_PUBLISH, AFTER_PUBLISH]
        if service == "payment":
            names += COMMITS["payment"]
        if service == "order":
            names += ORDER_COMMITS[:2]
        for outcome in SCENARIOS:
            if outcome == "rejected" and service == "shipping":
                names = names[:4]
            yield from (Point(CHOREOGRAPHED, outcome, service, name) for name in names)


POINTS = list(_points())


@pytest.fixture(scope="module")
def undisturbed(yard: Yard) -> dict[tuple[str, str], dict[str, Any]]:
    """What an order of each style and kind leaves that nobody killed anything for."""
    left = {}
    for style in (*CHECKOUTS, CHOREOGRAPHED):
        for outcome, ship_to in SCENARIOS.items():
            order = yard.ending(yard.wanted(style, ship_to=ship_to))
            assert order["status"] == outcome
            left[style, outcome] = yard.at_rest(order["order_id"])
    return left


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_killed_here_the_order_ends_as_if_nothing_had_happened(
    point: Point,
    yard: Yard,
    undisturbed: dict[tuple[str, str], dict[str, Any]],
    record_property: Callable[[str, object], None],
) -> None:
    wanted = yard.wanted(point.style, ship_to=SCENARIOS[point.outcome])
    yard.restart(point.service, point.failpoint)
    customer = yard.in_background(wanted)
    try:
        assert yard.services[point.service].died(), f"{point.failpoint} was not reached"
    finally:
        yard.restart(point.service)
    customer.join()
    order_id = yard.ending(wanted)["order_id"]
    assert yard.at_rest(order_id) == undisturbed[point.style, point.outcome]
    yard.check(point.style, order_id)
    record_property(KILLED, f"{point.style:14} {point.outcome:10} {point.service:10} {point.failpoint}")


@pytest.mark.parametrize("failpoint", TAKEOVERS)
@pytest.mark.parametrize("style", CHECKOUTS)
def test_killed_again_while_taking_over_the_order_ends_all_the_same(
    style: str,
    failpoint: str,
    yard: Yard,
    undisturbed: dict[tuple[str, str], dict[str, Any]],
    record_property: Callable[[str, object], None],
) -> None:
    first = f"saga.after-call:{CHECKOUTS[style].steps[2].name}.do"
    wanted = yard.wanted(style)
    yard.restart("order", first)
    customer = yard.in_background(wanted)
    assert yard.services["order"].died(), f"{first} was not reached"
    try:
        yard.start("order", failpoint)
        assert yard.services["order"].died(), f"{failpoint} was not reached"
    finally:
        yard.restart("order")
    customer.join()
    order_id = yard.ending(wanted)["order_id"]
    assert yard.at_rest(order_id) == undisturbed[style, "confirmed"]
    yard.check(style, order_id)
    record_property(KILLED, f"{style:14} {'confirmed':10} {'order':10} {first}, then {failpoint}")


def test_every_named_place_of_every_checkout_is_tried() -> None:
    tried = {(point.style, point.failpoint) for point in POINTS}
    for style, saga in CHECKOUTS.items():
        # Nothing is parked here: the participants are well. What is refused is not undone.
        unreached = {f"saga.{moment}-write:Parked" for moment in ("before", "after")} | set(TAKEOVERS)
        unreached |= {f"saga.{moment}-call:{REFUSED[style]}.undo" for moment in ("before", "after")}
        missed = {name for name in failpoints_of(saga) if (style, name) not in tried} - unreached
        assert missed == set(), f"{style} is not killed at {sorted(missed)}"
