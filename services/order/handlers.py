"""Load many, decide each, record many: one transaction for however many requests arrived together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.kernel.errors import DockyardError, Mismatch, NotFound, Unavailable
from libs.runtime.position import Position
from libs.tcc.barrier import Claim, Entry, First, Key, Operation, Replay, Unfinished
from libs.tcc.barrier import Mismatch as OtherRequest
from services.order import domain
from services.order.choreography import Stage, stage_of
from services.order.domain import Order, PlaceOrder
from services.order.ports import Appended, ChoreographyStart, ChoreographyTurn, SagaStart, Unit, Units
from services.order.saga import CANCELLATION, CHECKOUTS, Cancellation, cancellation_id, checkout_id, checkout_of


@dataclass(frozen=True, slots=True)
class Placing:
    """A request to place an order. `key` is the caller's idempotency key, `fingerprint` a digest of what it asked."""

    command: PlaceOrder
    key: str
    fingerprint: bytes
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Confirm:
    order_id: str
    at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class EndUnconfirmed:
    order_id: str
    reason: str
    message: str
    at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class RequestCancel:
    order_id: str
    reason: str
    key: str
    fingerprint: bytes
    at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class MarkCancelled:
    order_id: str
    at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class RefuseCancel:
    order_id: str
    reason: str
    at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Ship:
    order_id: str
    shipment_id: str
    at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The checkout of a pending order is given up."""

    order_id: str
    code: str
    message: str
    at: datetime
    traceparent: str = ""


# A request whose first try was refused left its claim without an answer: it is decided again.
FRESH = (First, Unfinished)

Change = Confirm | EndUnconfirmed | RequestCancel | Withdraw | MarkCancelled | RefuseCancel | Ship


@dataclass(frozen=True, slots=True)
class Written:
    """The order after the request, where to read it from, and whether an earlier request did the work."""

    order: Order
    position: Position | None
    replayed: bool = False


Outcome = Written | DockyardError


class OrderHandlers:
    """The write side: each method takes a batch and answers each request on its own."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def place(self, requests: Sequence[Placing]) -> Sequence[Outcome]:
        async with self._units.open() as unit:
            return await place_orders(unit, requests)

    async def change(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        async with self._units.open() as unit:
            return await change_orders(unit, changes)


async def place_orders(unit: Unit, requests: Sequence[Placing]) -> list[Outcome]:
    """Appends each new order and starts its checkout; repeats get the order they made before."""
    claims = await unit.barrier.claim(
        [Entry(place_key(one.key), one.fingerprint, one.command.order_id.encode()) for one in requests]
    )
    fresh = [request for request, claim in zip(requests, claims, strict=True) if isinstance(claim, First)]
    prices = await unit.catalogue.prices({line.sku for request in fresh for line in request.command.lines})
    decisions = [domain.place(request.command, prices) for request in fresh]
    appends = [
        Appended(domain.fold(events), 0, events, request.traceparent)
        for request, events in zip(fresh, decisions, strict=True)
    ]
    positions = await unit.orders.append(appends)
    written = {
        request.key: Written(append.after, position)
        for request, append, position in zip(fresh, appends, positions, strict=True)
    }
    begun = [
        (append.after, request) for append, request in zip(appends, fresh, strict=True) if not append.after.decided
    ]
    await unit.sagas.start([_checkout(order, request) for order, request in begun if order.coordination in CHECKOUTS])
    await unit.choreographies.begin(
        [
            ChoreographyStart(order.order_id, request.traceparent, order.placed_at)
            for order, request in begun
            if order.coordination == domain.CHOREOGRAPHED
        ]
    )
    replays = await _replayed(unit, claims)
    return [
        written.get(request.key) or _settled(claim, replays) for request, claim in zip(requests, claims, strict=True)
    ]


async def change_orders(unit: Unit, changes: Sequence[Change]) -> list[Outcome]:
    """Takes each order one step on; a change that was made before changes nothing and answers the same."""
    keyed = [change for change in changes if isinstance(change, RequestCancel)]
    claims = dict(
        zip(
            [change.key for change in keyed],
            await unit.barrier.claim([Entry(cancel_key(change.key), change.fingerprint) for change in keyed]),
            strict=True,
        )
    )
    orders = await _load(unit, {change.order_id for change in changes})
    outcomes = [_decided(change, orders.get(change.order_id), claims) for change in changes]
    appends = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    positions = dict(zip([append.after.order_id for append in appends], await unit.orders.append(appends), strict=True))
    results = [_written(outcome, positions) for outcome in outcomes]
    await unit.choreographies.turn(_turns(orders, outcomes, positions))
    await unit.sagas.start(_cancellations(changes, outcomes, results))
    await unit.barrier.answer(
        [
            (cancel_key(change.key), change.order_id.encode())
            for change, result in zip(changes, results, strict=True)
            if isinstance(change, RequestCancel)
            and isinstance(claims[change.key], FRESH)
            and isinstance(result, Written)
        ]
    )
    return results


async def _load(unit: Unit, order_ids: Collection[str]) -> Mapping[str, Order]:
    """The orders; those whose checkout nobody coordinates as they are while nobody else changes them.

    Their changes come from other services' events, from deadlines and from customers at once: they wait for each other.
    """
    orders = await unit.orders.load(order_ids)
    contended = {order_id for order_id, order in orders.items() if _is_choreographed(order)}
    if not contended:
        return orders
    await unit.choreographies.lock(contended)
    return {**orders, **await unit.orders.load(contended)}


def _is_choreographed(order: Order) -> bool:
    return order.coordination == domain.CHOREOGRAPHED and not order.decided


def _turns(
    orders: Mapping[str, Order], outcomes: Sequence[object], positions: Mapping[str, Position | None]
) -> list[ChoreographyTurn]:
    """Where the choreographed checkouts of changed orders are now."""
    after = [
        outcome.after
        for outcome in outcomes
        if isinstance(outcome, Appended) and positions[outcome.after.order_id] is not None
    ]
    return [
        ChoreographyTurn(order.order_id, stage, "CheckoutWithdrawn" if stage is Stage.WITHDRAWN else "")
        for order in after
        if _is_choreographed(orders[order.order_id])
        for stage in (stage_of(order),)
    ]


def _decided(change: Change, order: Order | None, claims: dict[str, Claim]) -> Appended | Written | DockyardError:
    """The events the change makes, or the order as it is when it makes none."""
    if order is None:
        return NotFound(f"there is no order {change.order_id}")
    if isinstance(change, RequestCancel) and not isinstance(claims[change.key], FRESH):
        return _other_request() if isinstance(claims[change.key], OtherRequest) else Written(order, None, replayed=True)
    try:
        event = _decide(change, order)
    except DockyardError as refusal:
        return refusal
    if event is None:
        return Written(order, None)
    return Appended(domain.evolve(order, event), order.version, (event,), change.traceparent)


def _decide(change: Change, order: Order) -> domain.Change | None:
    match change:
        case Confirm(at=at):
            return domain.confirm(order, at)
        case EndUnconfirmed(reason=reason, message=message, at=at):
            return domain.end_unconfirmed(order, reason, message, at)
        case RequestCancel(reason=reason, at=at):
            return domain.request_cancel(order, reason, at)
        case Withdraw(code=code, message=message, at=at):
            return domain.withdraw(order, code, message, at)
        case MarkCancelled(at=at):
            return domain.cancel(order, at)
        case RefuseCancel(reason=reason, at=at):
            return domain.refuse_cancel(order, reason, at)
        case Ship(shipment_id=shipment_id, at=at):
            return domain.ship(order, shipment_id, at)


def _written(outcome: Appended | Written | DockyardError, positions: dict[str, Position | None]) -> Outcome:
    if not isinstance(outcome, Appended):
        return outcome
    position = positions[outcome.after.order_id]
    if position is None:
        return Unavailable("the order changed meanwhile", code="version-conflict")
    return Written(outcome.after, position)


def _checkout(order: Order, request: Placing) -> SagaStart:
    saga = CHECKOUTS[order.coordination]
    return SagaStart(checkout_id(order.order_id), saga.name, checkout_of(order), request.traceparent)


def _cancellations(
    changes: Sequence[Change], outcomes: Sequence[object], results: Sequence[Outcome]
) -> list[SagaStart]:
    """A confirmed order is taken back by a saga of its own; a pending one by its checkout, which undoes itself."""
    return [
        SagaStart(
            cancellation_id(change.order_id, result.order.version),
            CANCELLATION.name,
            Cancellation(change.order_id),
            change.traceparent,
        )
        for change, outcome, result in zip(changes, outcomes, results, strict=True)
        if isinstance(change, RequestCancel)
        and isinstance(outcome, Appended)
        and isinstance(result, Written)
        and result.order.decided
    ]


async def _replayed(unit: Unit, claims: Sequence[Claim]) -> dict[bytes, Written]:
    """The orders that earlier requests under the same keys made, by what the barrier kept: their ids."""
    order_ids = {claim.answer.decode() for claim in claims if isinstance(claim, Replay)}
    if not order_ids:
        return {}
    orders, positions = await unit.orders.load(order_ids), await unit.orders.positions(order_ids)
    return {order_id.encode(): Written(order, positions[order_id], replayed=True) for order_id, order in orders.items()}


def _settled(claim: Claim, replays: dict[bytes, Written]) -> Outcome:
    match claim:
        case Replay(answer=kept):
            return replays[kept]
        case OtherRequest():
            return _other_request()
        case _:
            # Claim and answer share one commit here, so no other claim can be seen.
            raise AssertionError(f"unexpected claim {claim}")


def _other_request() -> Mismatch:
    return Mismatch("this Idempotency-Key was used with a different request; use a new key")


def place_key(key: str) -> Key:
    return Key(f"key:{key}", "place-order", Operation.DO)


def cancel_key(key: str) -> Key:
    return Key(f"key:{key}", "cancel-order", Operation.DO)
