"""The contract: what every style promises for one order, as cases that raise Broken where it is not kept.

Each case takes the yard and a style. `FAULTS` are those in which something goes wrong on the way: the naive style,
which has neither a log nor an undo, must break all of them.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from dockyard.local.waiting import wait_until
from libs.choreography.events import CHECKOUTS_TOPIC, PACKAGE
from libs.kernel.money import Money
from libs.messaging.redis_streams import stream_of
from libs.runtime.clock import Ids, SystemClock
from proto.events.v1 import events_pb2
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
from proto.shipping.v1 import shipping_pb2, shipping_pb2_grpc
from services.order.adapters.participants import INVENTORY, PAYMENT, SHIPPING, Effect
from services.order.domain import Address, Line
from services.order.saga import BookShipment, ChargeCard, DeductStock, OfOrder
from tests.e2e.shop import ANTARCTICA, HARBOUR
from tests.integration.coordination.yard import END_SECONDS, NAIVE, Yard, expect

Case = Callable[[Yard, str], None]

REQUEST_SECONDS = 10.0
SLOW_CARD = "tok_slow"

# The commands by which each style has, confirms and undoes its effects, by participant.
COMMANDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "orchestrated": {
        "inventory": ("deduct-stock", "restock"),
        "payment": ("charge", "refund"),
        "shipping": ("book-shipment", "cancel-booking"),
    },
    "tcc": {
        "inventory": ("hold-stock", "release-stock", "confirm-stock"),
        "payment": ("authorise", "void", "capture"),
        "shipping": ("hold-place", "release-place", "confirm-place"),
    },
    "twophase": {
        "inventory": ("prepare-stock", "roll-back-stock", "commit-stock"),
        "payment": ("prepare-payment", "roll-back-payment", "commit-payment"),
        "shipping": ("prepare-shipment", "roll-back-shipment", "commit-shipment"),
    },
}


def confirms(yard: Yard, style: str) -> None:
    order = yard.ending(yard.wanted(style))
    expect(order["status"] == "confirmed", f"it is {order['status']}: {order['reason']}")
    yard.check(style, order["order_id"])


def refused_by_inventory(yard: Yard, style: str) -> None:
    _is_rejected(yard, style, "out-of-stock", lines={"lamp": 1, "unobtainable": 1})


def refused_by_payment(yard: Yard, style: str) -> None:
    _is_rejected(yard, style, "card-declined", card="tok_declined")


def refused_by_shipping(yard: Yard, style: str) -> None:
    _is_rejected(yard, style, "zone-not-served", ship_to=ANTARCTICA)


def _is_rejected(yard: Yard, style: str, reason: str, **wanted: Any) -> None:
    order = yard.ending(yard.wanted(style, **wanted))
    expect((order["status"], order["reason"]) == ("rejected", reason), f"{order['status']}: {order['reason']}")
    yard.check(style, order["order_id"])


def processor_answer_lost(yard: Yard, style: str) -> None:
    order = yard.ending(yard.wanted(style, card="tok_lost_response"))
    expect(order["status"] == "confirmed", f"it is {order['status']}: {order['reason']}")
    yard.check(style, order["order_id"])


def cancelled_while_running(yard: Yard, style: str) -> None:
    order_id = yard.place(yard.wanted(style, card=SLOW_CARD))
    yard.cancel(order_id)
    yard.reaches(order_id, "cancelled")
    yard.check(style, order_id)


def submitted_twice(yard: Yard, style: str) -> None:
    wanted = yard.wanted(style)
    customers = [yard.in_background(wanted) for _ in range(3)]
    for customer in customers:
        customer.join()
    order = yard.ending(wanted)
    placed = yard.rows("order", "SELECT count(*) FROM events WHERE version = 1 AND stream_id = $1", order["order_id"])
    expect(placed == [(1,)], f"{placed} orders under one key")
    expect(order["status"] == "confirmed", f"it is {order['status']}: {order['reason']}")
    yard.check(style, order["order_id"])


def messages_arrive_twice(yard: Yard, style: str) -> None:
    """While the order runs and again when it has ended; also one that is refused and undone."""
    for ship_to in (HARBOUR, ANTARCTICA):
        wanted = yard.wanted(style, ship_to=ship_to)
        if style == "choreographed":
            _twice_while_it_runs(yard, yard.place(wanted))
        order_id = yard.ending(wanted)["order_id"]
        left = yard.at_rest(order_id)
        if style == "choreographed":
            _twice_at_rest(yard, order_id)
        else:
            _commands_twice(yard, style, order_id, ship_to)
        again = yard.at_rest(order_id)
        expect(again == left, f"a repeat changed what {order_id} left behind: {again}, not {left}")
        yard.check(style, order_id)


def _twice_while_it_runs(yard: Yard, order_id: str) -> None:
    """Each service says each thing once, however often it hears what calls for it."""
    yard.repeat(order_id)
    yard.read_by_all()
    twice = [kind for kind, ids in _said(yard, order_id).items() if len(ids) > 1]
    expect(not twice, f"{', '.join(twice)} was said again because a message came twice")


def _twice_at_rest(yard: Yard, order_id: str) -> None:
    """What comes again when all is over calls for nothing."""
    yard.read_by_all()
    said = _said(yard, order_id)
    yard.repeat(order_id)
    yard.read_by_all()
    expect(_said(yard, order_id) == said, "something was said because a message came twice")


def _said(yard: Yard, order_id: str) -> dict[str, set[bytes]]:
    """The ids of the events about an order, by type."""
    said: dict[str, set[bytes]] = {}
    for _, fields in yard.messages(order_id):
        said.setdefault(fields[b"type"].decode(), set()).add(fields[b"id"])
    return said


def _commands_twice(yard: Yard, style: str, order_id: str, ship_to: Mapping[str, str]) -> None:
    """What its coordinator said comes once more, the first commands last."""
    confirmed = yard.order(order_id)["status"] == "confirmed"
    for service, commands in COMMANDS[style].items():
        do, undo, *confirm = commands
        answered = [ask(yard, service, name, order_id, ship_to) for name in (*(confirm if confirmed else (undo,)), do)]
        for result in answered:
            expect(result.WhichOneof("result") != "fault", f"{service} did not answer: {result}")


def messages_arrive_late(yard: Yard, style: str) -> None:
    """A do that was delayed on its way comes after its order has been undone: it is refused, or answered as before."""
    if style == "choreographed":
        order_id = yard.place(yard.wanted(style, card=SLOW_CARD))
        yard.cancel(order_id)
        yard.reaches(order_id, "cancelled")
        _twice_at_rest(yard, order_id)
    else:
        order_id = yard.ending(yard.wanted(style, ship_to=ANTARCTICA))["order_id"]
        for service, (do, *_) in COMMANDS[style].items():
            ask(yard, service, do, order_id, HARBOUR)
    yard.check(style, order_id)


def undo_before_do(yard: Yard, style: str) -> None:
    """The undo overtakes the do: nothing happens, then or later (G6)."""
    order_id = Ids(SystemClock()).new("ord")
    if style == "choreographed":
        _withdrawn_before_it_began(yard, order_id)
    else:
        for service, (do, undo, *_) in COMMANDS[style].items():
            ask(yard, service, undo, order_id, HARBOUR)
            late = ask(yard, service, do, order_id, HARBOUR)
            expect(late.WhichOneof("result") == "refused", f"{service} did it although it was undone: {late}")
    left = yard.left_behind(order_id)
    expect(not left["stock"] and not left["shipment"] and not any(left["charges"]), f"left behind: {left}")
    found = yard.violations([order_id])
    expect(not found, str(found))


def _withdrawn_before_it_began(yard: Yard, order_id: str) -> None:
    """Going back arrives at every service before what it goes back from."""
    _say(yard, events_pb2.CheckoutWithdrawn(order_id=order_id, code="test", message="overtakes"))
    yard.read_by_all()
    checkout = events_pb2.Checkout(
        order_id=order_id,
        customer_id="ada",
        lines=[kernel_pb2.Line(sku="lamp", quantity=1)],
        total=kernel_pb2.Money(minor_units=4900, currency="EUR"),
        card_token="tok_ok",
        ship_to=kernel_pb2.Address(**HARBOUR),
    )
    for late in (
        events_pb2.StockDeducted(checkout=checkout),
        events_pb2.PaymentCharged(checkout=checkout, payment_id="pay_late"),
    ):
        _say(yard, late)
        yard.read_by_all()
    yard.read_by_all()


def _say(yard: Yard, event: Any) -> None:
    """Puts an event on the stream as a relay would."""
    order_id = event.checkout.order_id if "checkout" in event.DESCRIPTOR.fields_by_name else event.order_id
    yard.redis.xadd(
        stream_of(CHECKOUTS_TOPIC, order_id),
        {
            "specversion": "1.0",
            "id": Ids(SystemClock()).new("evt"),
            "type": PACKAGE + event.DESCRIPTOR.name,
            "source": "/tests",
            "subject": order_id,
            "time": SystemClock().now().isoformat(),
            "traceparent": "",
            "data": event.SerializeToString(),
        },
    )


def inventory_away(yard: Yard, style: str) -> None:
    _away(yard, style, "inventory")


def payment_away(yard: Yard, style: str) -> None:
    _away(yard, style, "payment")


def shipping_away(yard: Yard, style: str) -> None:
    _away(yard, style, "shipping")


def _away(yard: Yard, style: str, service: str) -> None:
    """It is down for longer than one retry, then back: the order waits, and is confirmed."""
    yard.services[service].kill()
    try:
        wanted = yard.wanted(style)
        order_id = yard.place(wanted)
        _waited(yard, style, service, order_id)
    finally:
        yard.start(service)
    order = yard.ending(wanted)
    expect(order["status"] == "confirmed", f"it is {order['status']}: {order['reason']}")
    yard.check(style, order_id)


def _waited(yard: Yard, style: str, service: str, order_id: str) -> None:
    """Returns when the order got as far as it can without the one who is away."""
    if style == "choreographed":
        unheard = (
            PACKAGE + {"inventory": "OrderPlaced", "payment": "StockDeducted", "shipping": "PaymentCharged"}[service]
        )
        said = wait_until(lambda: unheard in _said(yard, order_id), SystemClock(), END_SECONDS)
        expect(said, f"{unheard} is never said")
        yard.read_by_all(away=service)
    elif style != NAIVE:
        tried = (
            "SELECT count(*) FROM saga_log WHERE saga_id = $1 AND entry->>'type' = 'StepFailed' HAVING count(*) >= 2"
        )
        yard.until("order", tried, order_id)


def coordinator_dies(yard: Yard, style: str) -> None:
    """The order service is killed while the card is being charged."""
    wanted = yard.wanted(style, card=SLOW_CARD)
    order_id = yard.place(wanted)
    yard.until("payment", "SELECT status FROM payments WHERE transaction_id = $1", order_id)
    yard.restart("order")
    order = yard.ending(wanted)
    expect(order["status"] == "confirmed", f"it is {order['status']}: {order['reason']}")
    yard.check(style, order_id)


def a_hold_outlives_its_lease(yard: Yard, style: str) -> None:
    """A participant's patience ends while the order is undecided: the answer it gets is the order's end."""
    if style in {"tcc", "twophase"}:
        yard.restart(
            "inventory", hold_lease_seconds="0.2", prepared_patience_seconds="0.2", inquiry_every_seconds="0.1"
        )
    try:
        wanted = yard.wanted(style, card=SLOW_CARD)
        order = yard.ending(wanted)
        yard.check(style, order["order_id"])
    finally:
        if style in {"tcc", "twophase"}:
            yard.restart("inventory")


def two_race_for_the_last_one(yard: Yard, style: str) -> None:
    sku = f"last-{style}-{Ids(SystemClock()).new('sku')[-6:]}"
    yard.list_product(sku, on_hand=1)
    both = [yard.wanted(style, lines={sku: 1}) for _ in range(2)]
    customers = [yard.in_background(wanted) for wanted in both]
    for customer in customers:
        customer.join()
    orders = [yard.ending(wanted) for wanted in both]
    outcomes = sorted(f"{order['status']} {order['reason']}".strip() for order in orders)
    expect(outcomes == ["confirmed", "rejected out-of-stock"], f"the last one: {outcomes}")
    yard.check(style, *(order["order_id"] for order in orders))


# Something goes wrong on the way. Where every participant is well and says yes, calls in a row do as well as anything.
FAULTS: tuple[Case, ...] = (
    refused_by_payment,
    refused_by_shipping,
    cancelled_while_running,
    payment_away,
    shipping_away,
    coordinator_dies,
)
CASES: tuple[Case, ...] = (
    confirms,
    refused_by_inventory,
    processor_answer_lost,
    submitted_twice,
    messages_arrive_twice,
    messages_arrive_late,
    undo_before_do,
    inventory_away,
    a_hold_outlives_its_lease,
    two_race_for_the_last_one,
    *FAULTS,
)
# What calls in a row keep as well as the others.
NAIVE_KEEPS: tuple[Case, ...] = (confirms, refused_by_inventory, submitted_twice, two_race_for_the_last_one)


# Commands, sent as a coordinator would.


def ask(yard: Yard, service: str, name: str, order_id: str, ship_to: Mapping[str, str]) -> Any:
    """The participant's result for one command in one batch."""
    effects: Mapping[str, Mapping[str, Effect]] = {"inventory": INVENTORY, "payment": PAYMENT, "shipping": SHIPPING}
    effect = effects[service][name]
    context = participant_pb2.CommandContext(
        transaction_id=order_id, step=effect.step, operation=effect.operation, manner=effect.manner, attempt=1
    )
    command = effect.message(context, _body(yard, effect, order_id, ship_to))
    results: list[Any] = asyncio.run(_execute(yard.platform.services[service].grpc_address, service, command))
    return results[0]


def _body(yard: Yard, effect: Effect, order_id: str, ship_to: Mapping[str, str]) -> Any:
    if effect.operation != participant_pb2.OPERATION_DO:
        return OfOrder(order_id)
    match effect.step:
        case "deduct-stock":
            return DeductStock(order_id, (Line("lamp", 2),))
        case "charge":
            return ChargeCard(order_id, "ada", Money(9800, "EUR"), "tok_ok")
        case _:
            return BookShipment(order_id, Address(**ship_to))


async def _execute(address: str, service: str, command: Any) -> Any:
    stubs: Mapping[str, tuple[Any, Any]] = {
        "inventory": (inventory_pb2_grpc.InventoryServiceStub, inventory_pb2.ExecuteBatchRequest),
        "payment": (payment_pb2_grpc.PaymentServiceStub, payment_pb2.ExecuteBatchRequest),
        "shipping": (shipping_pb2_grpc.ShippingServiceStub, shipping_pb2.ExecuteBatchRequest),
    }
    stub, request = stubs[service]
    async with grpc.aio.insecure_channel(address) as channel:
        response = await stub(channel).ExecuteBatch(request(commands=[command]), timeout=REQUEST_SECONDS)
        return response.results
