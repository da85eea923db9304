"""What happened to an order, in one line of time: its events, its coordinator's log or messages, and what each service
did by its own record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from libs.choreography.events import MESSAGES
from libs.eventsourcing.store import Recorded
from libs.runtime.clock import Clock
from libs.runtime.database import Database
from libs.saga import timeline
from libs.saga.log import Remembered, SagaLog
from services.order.adapters.codec import CODEC
from services.order.adapters.operations import UNMOVED_SECONDS
from services.order.adapters.queries import OrderQueries
from services.order.choreography import Stage
from services.order.domain import (
    CHOREOGRAPHED,
    NAIVE,
    CancelRefused,
    CancelRequested,
    CheckoutWithdrawn,
    Event,
    Order,
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderShipped,
    Status,
    fold,
)
from services.order.reading import Kind, ServiceTrail, Timeline, TimelineEntry, Trails
from services.order.saga import SAGAS

# The saga that fulfils an order and those that were asked to take it back, oldest first.
SAGAS_OF_ORDER = text(
    """
    SELECT saga_id FROM sagas
     WHERE saga_id = :order_id OR (saga_id > :order_id || '/cancel/' AND saga_id < :order_id || '/cancel0')
     ORDER BY started_at
    """
)
CHOREOGRAPHY = text("SELECT status, last_event, moved_at, parked_reason FROM choreographies WHERE order_id = :order_id")
# What was heard, in that order; a checkout has some ten messages.
MESSAGES_OF_ORDER = text(
    "SELECT at, event, detail FROM choreography_log WHERE order_id = :order_id ORDER BY number LIMIT :limit"
)
MESSAGES_MAX = 200
FULFILLED = frozenset({Status.CONFIRMED, Status.SHIPPED})
# Events that go back say why.
BACKWARD = frozenset(name for name, event in MESSAGES.items() if "code" in event.DESCRIPTOR.fields_by_name)


@dataclass(frozen=True, slots=True)
class Message:
    """An event of a choreographed checkout that the order heard, or that it was parked."""

    at: datetime
    event: str
    detail: str


@dataclass(frozen=True, slots=True)
class Choreography:
    """What the order knows of a checkout that nobody coordinates."""

    stage: Stage
    last_event: str
    moved_at: datetime
    parked_reason: str
    messages: Sequence[Message] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the order service itself knows of an order."""

    order: Order
    events: Sequence[Recorded]
    sagas: Sequence[Remembered] = ()
    choreography: Choreography | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is: a state, and for an unfinished one what it waits for since when."""

    state: str
    waits_for: str = ""
    since: datetime | None = None


class OrderTimelines:
    """Reads one order's story, whatever coordinates it. Raises NotFound."""

    def __init__(
        self, database: Database, saga_log: SagaLog, queries: OrderQueries, trails: Trails, clock: Clock
    ) -> None:
        self._database = database
        self._log = saga_log
        self._queries = queries
        self._trails = trails
        self._clock = clock

    async def of(self, order_id: str) -> Timeline:
        known = await self._known(order_id)
        return told(known, await self._trails.of(order_id), self._clock.now())

    async def _known(self, order_id: str) -> Known:
        events = await self._queries.events(order_id)
        order = fold(CODEC.decode(event.type, event.data) for event in events)
        choreography = await self._choreography(order_id) if order.coordination == CHOREOGRAPHED else None
        return Known(order, events, await self._sagas(order_id), choreography)

    async def _sagas(self, order_id: str) -> list[Remembered]:
        async with self._database.read() as connection:
            ids = list((await connection.execute(SAGAS_OF_ORDER, {"order_id": order_id})).scalars())
        found = await self._log.load(ids)
        return [found[saga_id] for saga_id in ids]

    async def _choreography(self, order_id: str) -> Choreography | None:
        async with self._database.read() as connection:
            row = (await connection.execute(CHOREOGRAPHY, {"order_id": order_id})).one_or_none()
            if row is None:
                return None
            messages = await connection.execute(MESSAGES_OF_ORDER, {"order_id": order_id, "limit": MESSAGES_MAX})
            stage, last_event, moved_at, parked_reason = row
            heard = [Message(at, event, detail) for at, event, detail in messages]
            return Choreography(Stage(stage), last_event, moved_at, parked_reason, heard)


def told(known: Known, trails: Sequence[ServiceTrail], now: datetime) -> Timeline:
    """The whole story, oldest first: what was said, tried and done, and what is or was kept from others."""
    entries = [_event_entry(event) for event in known.events]
    entries += [entry for saga in known.sagas for entry in _log_entries(saga)]
    if known.choreography is not None:
        entries += [*_said(known.events), *(_heard(message) for message in known.choreography.messages)]
    entries += [entry for trail in trails for entry in trail.entries]
    entries.sort(key=lambda entry: entry.at)
    kept = sorted((one for trail in trails for one in trail.kept), key=lambda one: one.since)
    standing = _standing(known, entries, now)
    return Timeline(
        order_id=known.order.order_id,
        coordination=known.order.coordination,
        state=standing.state,
        waits_for=standing.waits_for,
        waits_since=standing.since,
        entries=tuple(entries),
        kept=tuple(kept),
    )


def _standing(known: Known, entries: Sequence[TimelineEntry], now: datetime) -> Standing:
    """The newest saga's: a cancellation is one whatever the checkout was; else the checkout's own."""
    if known.sagas:
        return _of_saga(known.sagas[-1])
    if known.choreography is not None:
        return _of_choreography(known.choreography, known.order)
    if known.order.coordination == NAIVE:
        moved = max(entry.at for entry in entries if entry.kind is not Kind.UNAVAILABLE)
        return _of_calls(known.order, moved, now)
    # It was rejected as it was placed.
    return Standing("completed")


def _of_saga(saga: Remembered) -> Standing:
    state, awaited = timeline.state_of(saga.lines), timeline.awaited(SAGAS[saga.instance.saga], saga.lines)
    if not awaited:
        return Standing(state)
    return Standing(state, awaited, saga.lines[-1].at if saga.lines else saga.instance.started_at)


def _of_choreography(choreography: Choreography, order: Order) -> Standing:
    last, since = choreography.last_event, choreography.moved_at
    match choreography.stage:
        case Stage.ENDED:
            return Standing("completed" if order.status in FULFILLED else "undone")
        case Stage.PARKED:
            return Standing("parked", f"an operator: {choreography.parked_reason}", since)
        case stage:
            goes_back = stage is Stage.WITHDRAWN or last in BACKWARD
            waits_for = f"what follows {last}" if last else "its first reaction"
            return Standing("undoing" if goes_back else "running", waits_for, since)


def _of_calls(order: Order, moved: datetime, now: datetime) -> Standing:
    """Nobody knows how far a row of calls is; when nothing has moved for long, nobody makes the next one."""
    if order.decided:
        return Standing("completed" if order.status in FULFILLED else "ended")
    if now - moved < timedelta(seconds=UNMOVED_SECONDS):
        return Standing("running", "the answer to its next call", moved)
    return Standing("parked", "an operator: its calls ended without a decision, nobody goes on with it", moved)


def _event_entry(recorded: Recorded) -> TimelineEntry:
    detail = _why(CODEC.decode(recorded.type, recorded.data))
    return TimelineEntry(recorded.recorded_at, "order", recorded.type, detail=detail, kind=Kind.EVENT)


def _why(event: Event) -> str:
    match event:
        case OrderRejected(reason=code, message=message) | CheckoutWithdrawn(code=code, message=message):
            return f"{code}: {message}" if message else code
        case CancelRequested(reason=reason) | CancelRefused(reason=reason) | OrderCancelled(reason=reason):
            return reason
        case OrderShipped(shipment_id=shipment_id):
            return shipment_id
        case _:
            return ""


def _log_entries(saga: Remembered) -> list[TimelineEntry]:
    services = _services(saga)
    return [
        TimelineEntry(
            moment.at,
            services.get(moment.step, "order"),
            moment.what,
            moment.step,
            moment.attempt,
            moment.detail,
            Kind.LOG,
        )
        for moment in timeline.moments(saga.lines)
    ]


def _services(saga: Remembered) -> dict[str, str]:
    """Which service each step is about: the definition says it, given the saga's own input."""
    steps = SAGAS[saga.instance.saga].steps
    return {step.name: step.do(saga.instance.input, {}).participant for step in steps}


def _heard(message: Message) -> TimelineEntry:
    """What is no event is what the order did about its checkout: "parked"."""
    what = f"heard {message.event}" if message.event in MESSAGES else message.event.lower()
    return TimelineEntry(message.at, "order", what, detail=message.detail, kind=Kind.MESSAGE)


def _said(events: Sequence[Recorded]) -> Iterator[TimelineEntry]:
    """What the others were told of a checkout that nobody coordinates, up to its end."""
    for recorded in events:
        event = CODEC.decode(recorded.type, recorded.data)
        if isinstance(event, OrderConfirmed | OrderRejected | OrderCancelled):
            return
        if isinstance(event, OrderPlaced | CheckoutWithdrawn | CancelRequested):
            name = OrderPlaced.__name__ if isinstance(event, OrderPlaced) else CheckoutWithdrawn.__name__
            yield TimelineEntry(recorded.recorded_at, "order", f"said {name}", kind=Kind.MESSAGE)
