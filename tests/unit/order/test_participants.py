"""Commands as the participants' batch RPCs carry them: their keys and manners, who shares a call, what comes back."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from libs.kernel.errors import DockyardError, InDoubt, Refused, Unavailable
from libs.kernel.money import Money
from libs.runtime.clock import ManualClock
from libs.saga.calls import CommandContext
from libs.saga.definition import Command
from proto.inventory.v1 import inventory_pb2
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2
from proto.shipping.v1 import shipping_pb2
from services.order.adapters.participants import INVENTORY, PAYMENT, SHIPPING, BatchParticipant
from services.order.domain import Address, Line
from services.order.saga import CANCELLATION, SAGAS, BookShipment, Cancellation, ChargeCard, Checkout, DeductStock

CHECKOUT = Checkout(
    "o1", "ada", (Line("lamp", 2),), Money(9800, "EUR"), "tok_ok", Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
)
BODIES: dict[str, Any] = {
    "inventory": DeductStock("o1", CHECKOUT.lines),
    "payment": ChargeCard("o1", "ada", CHECKOUT.amount, "tok_ok"),
    "shipping": BookShipment("o1", CHECKOUT.ship_to),
}
EFFECTS = {"inventory": INVENTORY, "payment": PAYMENT, "shipping": SHIPPING}
STEPS = {"inventory": "deduct-stock", "payment": "charge", "shipping": "book-shipment"}
LAMPS = kernel_pb2.Line(sku="lamp", quantity=2)
NOTHING: dict[str, Any] = {
    "inventory": inventory_pb2.Result(restocked=inventory_pb2.Restocked()),
    "payment": payment_pb2.Result(refunded=payment_pb2.Refunded()),
    "shipping": shipping_pb2.Result(cancelled=shipping_pb2.BookingCancelled()),
}


class Peer:
    """A participant behind its batch RPC: keeps what each call carried, and may be made to wait."""

    def __init__(self, name: str = "inventory", answer: Any = None) -> None:
        self.name = name
        self.calls: list[list[Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.answer = answer or NOTHING[name]
        self.failure: DockyardError | None = None
        self.participant = BatchParticipant(name, EFFECTS[name], self._call, ManualClock(), 1)

    async def _call(self, commands: Sequence[Any], seconds: float) -> Sequence[Any]:
        self.calls.append(list(commands))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [self.answer] * len(commands)

    async def execute(self, command: str, order_id: str = "o1") -> dict[str, str] | DockyardError:
        body = replace(BODIES[self.name], order_id=order_id)
        try:
            return await self.participant.execute(Command(self.name, command, body), CONTEXT)
        except DockyardError as error:
            return error

    async def carried(self, command: Command) -> Any:
        await self.participant.execute(command, CONTEXT)
        ((message,),) = self.calls
        return message


CONTEXT = CommandContext("o1", "step", "do", 3, 1_767_225_605_000)


def commands_of_sagas() -> Iterator[tuple[str, str, Command]]:
    """Every command to another service that any saga may send, with the part it plays there."""
    for saga in SAGAS.values():
        body: Any = Cancellation("o1") if saga is CANCELLATION else CHECKOUT
        for step in saga.steps:
            for part, make in (("do", step.do), ("undo", step.undone_by)):
                command = make(body, {}) if make is not None else None
                if command is not None and command.participant != "order":
                    yield saga.name, part, command


@pytest.mark.parametrize(("saga", "part", "command"), list(commands_of_sagas()))
async def test_every_command_of_every_saga_reaches_the_same_effect(saga: str, part: str, command: Command) -> None:
    message = await Peer(command.participant).carried(command)
    context = message.context
    assert (context.transaction_id, context.step) == ("o1", STEPS[command.participant])
    assert (context.attempt, context.deadline_unix_ms) == (3, CONTEXT.deadline_unix_ms)
    told = f"{participant_pb2.Operation.Name(context.operation)} {participant_pb2.Manner.Name(context.manner)}"
    assert told in EXPECTED[saga][part], command.name


EXPECTED = {
    "checkout": {"do": {"OPERATION_DO MANNER_UNSPECIFIED"}, "undo": {"OPERATION_UNDO MANNER_UNSPECIFIED"}},
    "cancellation": {"do": {"OPERATION_UNDO MANNER_UNSPECIFIED"}, "undo": set()},
    "checkout-tcc": {
        "do": {"OPERATION_DO MANNER_HOLD", "OPERATION_CONFIRM MANNER_HOLD"},
        "undo": {"OPERATION_UNDO MANNER_HOLD"},
    },
    "checkout-twophase": {
        "do": {"OPERATION_DO MANNER_PREPARE", "OPERATION_CONFIRM MANNER_PREPARE"},
        "undo": {"OPERATION_UNDO MANNER_PREPARE"},
    },
}


@pytest.mark.parametrize(
    ("participant", "commands", "carries"),
    [
        ("inventory", ("deduct-stock", "hold-stock", "prepare-stock"), "deduct_stock"),
        ("inventory", ("restock", "release-stock", "roll-back-stock"), "restock"),
        ("inventory", ("confirm-stock", "commit-stock"), "confirm"),
        ("payment", ("charge", "authorise", "prepare-payment"), "charge"),
        ("payment", ("refund", "void", "roll-back-payment"), "refund"),
        ("payment", ("capture", "commit-payment"), "capture"),
        ("shipping", ("book-shipment", "hold-place", "prepare-shipment"), "book"),
        ("shipping", ("cancel-booking", "release-place", "roll-back-shipment"), "cancel"),
        ("shipping", ("confirm-place", "commit-shipment"), "confirm"),
    ],
)
async def test_what_is_asked_is_the_same_in_every_manner(
    participant: str, commands: Sequence[str], carries: str
) -> None:
    asked = []
    for name in commands:
        message = await Peer(participant).carried(Command(participant, name, BODIES[participant]))
        assert message.WhichOneof("command") == carries
        asked.append(getattr(message, carries))
    assert all(one == asked[0] for one in asked)


async def test_commands_that_come_while_a_call_is_under_way_share_the_next() -> None:
    peer = Peer()
    peer.open.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(peer.execute("deduct-stock", "o1"))
        await turn()
        for order_id in ("o2", "o3", "o4"):
            group.create_task(peer.execute("hold-stock", order_id))
        await turn()
        peer.open.set()
    assert first.result() == {"nothing": "to restock"}
    assert [[one.context.transaction_id for one in call] for call in peer.calls] == [["o1"], ["o2", "o3", "o4"]]


async def test_what_is_prepared_goes_alone_and_nobody_waits_for_it() -> None:
    peer = Peer()
    peer.open.clear()
    async with asyncio.TaskGroup() as group:
        for order_id in ("o1", "o2"):
            group.create_task(peer.execute("prepare-stock", order_id))
        await turn()
        group.create_task(peer.execute("deduct-stock", "o3"))
        await turn()
        assert [[one.context.transaction_id for one in call] for call in peer.calls] == [["o1"], ["o2"], ["o3"]]
        peer.open.set()


@pytest.mark.parametrize(
    ("first", "second"),
    [("hold-stock", "release-stock"), ("commit-stock", "roll-back-stock"), ("prepare-stock", "prepare-stock")],
)
async def test_two_commands_about_one_effect_never_overlap(first: str, second: str) -> None:
    peer = Peer()
    peer.open.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(peer.execute(first))
        await turn()
        group.create_task(peer.execute(second))
        await turn()
        assert len(peer.calls) == 1
        peer.open.set()
    assert len(peer.calls) == 2


async def test_prepares_that_wait_in_vain_keep_nothing_back_that_would_let_go_of_what_they_wait_for() -> None:
    peer = Peer()
    peer.failure = InDoubt("no answer within 5.0 s", code="timeout")
    for number in range(50):
        assert await peer.execute("prepare-stock", f"o{number}") is peer.failure
    assert len(peer.calls) == 50
    peer.failure = None
    assert await peer.execute("commit-stock", "another") == {"nothing": "to restock"}


async def test_a_participant_that_fails_everybody_is_left_alone_for_a_moment() -> None:
    peer = Peer()
    peer.failure = Unavailable("connection refused")
    for number in range(50):
        assert isinstance(await peer.execute("commit-stock", f"o{number}"), Unavailable)
    assert len(peer.calls) < 50


@pytest.mark.parametrize(
    ("participant", "answer", "kept"),
    [
        ("inventory", inventory_pb2.Result(stock_deducted=inventory_pb2.StockDeducted()), {}),
        ("inventory", inventory_pb2.Result(confirmed=inventory_pb2.DeductionConfirmed(lines=[LAMPS])), {}),
        (
            "inventory",
            inventory_pb2.Result(confirmed=inventory_pb2.DeductionConfirmed()),
            {"nothing": "left to confirm"},
        ),
        ("payment", payment_pb2.Result(captured=payment_pb2.Captured(payment_id="pay_1")), {"payment_id": "pay_1"}),
        ("payment", payment_pb2.Result(captured=payment_pb2.Captured()), {"nothing": "left to capture"}),
        ("shipping", shipping_pb2.Result(confirmed=shipping_pb2.BookingConfirmed()), {"nothing": "left to confirm"}),
        (
            "shipping",
            shipping_pb2.Result(confirmed=shipping_pb2.BookingConfirmed(shipment_id="shp_1")),
            {"shipment_id": "shp_1"},
        ),
    ],
)
async def test_the_log_keeps_what_an_answer_says(participant: str, answer: Any, kept: dict[str, str]) -> None:
    assert await Peer(participant, answer).execute(next(iter(EFFECTS[participant]))) == kept


FAULT = participant_pb2.Fault(kind=participant_pb2.FAULT_KIND_IN_DOUBT, code="timeout", message="no answer")


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (inventory_pb2.Result(refused=participant_pb2.Refusal(code="out-of-stock")), Refused, "out-of-stock"),
        (inventory_pb2.Result(fault=FAULT), InDoubt, "timeout"),
        (
            inventory_pb2.Result(
                fault=participant_pb2.Fault(kind=participant_pb2.FAULT_KIND_UNAVAILABLE, code="locked")
            ),
            Unavailable,
            "locked",
        ),
        (inventory_pb2.Result(), InDoubt, "empty-result"),
    ],
)
async def test_what_is_no_answer_says_whether_it_may_have_happened(
    answer: Any, error: type[DockyardError], code: str
) -> None:
    said = await Peer(answer=answer).execute("prepare-stock")
    assert isinstance(said, error)
    assert said.code == code


async def test_draining_ends_what_was_begun_and_takes_nothing_new() -> None:
    peer = Peer()
    peer.open.clear()
    async with asyncio.TaskGroup() as group:
        begun = [group.create_task(peer.execute(name, name)) for name in ("prepare-stock", "deduct-stock")]
        await turn()
        drained = group.create_task(peer.participant.drain())
        await turn()
        assert not drained.done()
        peer.open.set()
    assert [task.result() for task in begun] == [{"nothing": "to restock"}] * 2
    for name in ("prepare-stock", "deduct-stock"):
        assert isinstance(await peer.execute(name), Unavailable)


async def turn() -> None:
    """Lets everybody who can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)
