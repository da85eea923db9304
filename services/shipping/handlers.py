"""Bookings in batches. Shipping is flat: its handlers speak SQL through one store, and decide with `domain`."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TypeVar

import msgspec

from libs.kernel.errors import Conflict, DockyardError, NotFound, Refused
from libs.tcc.answers import Answer, is_kept, outcome, refusal, settled
from libs.tcc.barrier import Claim, Entry, First, Key, Manner, Operation
from services.shipping.domain import (
    Address,
    Day,
    Place,
    Service,
    Status,
    cancelled,
    checked_address,
    checked_parcels,
    choose,
    confirmed,
    days_from,
    days_of,
    room,
    shipment_id_of,
)
from services.shipping.ports import NewShipment, Shipment, Unit, Units

BOOK_SHIPMENT = "book-shipment"
# What a booking is at first: one that is prepared is seen only when its order is confirmed, and may leave then.
BEGINNINGS: Mapping[Manner, Status] = {
    Manner.AT_ONCE: Status.BOOKED,
    Manner.HOLD: Status.HELD,
    Manner.PREPARE: Status.RELEASED,
}


@dataclass(frozen=True, slots=True)
class Book:
    """A place that is only held asks after `lease_ms` what became of its transaction."""

    address: Address
    parcels: int
    at: datetime
    lease_ms: int = 0


@dataclass(frozen=True, slots=True)
class Confirm:
    pass


@dataclass(frozen=True, slots=True)
class Cancel:
    pass


@dataclass(frozen=True, slots=True)
class Dispatch:
    shipment_id: str
    at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class CreateCarrier:
    carrier_id: str
    name: str
    services: tuple[Service, ...]


Effect = Book | Confirm | Cancel | Dispatch | CreateCarrier


@dataclass(frozen=True, slots=True)
class Command:
    """One effect, under the key that lets it happen once."""

    entry: Entry
    effect: Effect


class Done(msgspec.Struct, frozen=True):
    """The answer; everything is empty where there was nothing to cancel, or nothing left to confirm."""

    shipment_id: str = ""
    carrier_id: str = ""
    ship_date: str = ""


Outcome = Done | DockyardError
Decided = dict[int, Answer[Done] | DockyardError]
E = TypeVar("E", bound=Effect)

_read = msgspec.json.Decoder(Answer[Done]).decode
NOTHING = Answer(Done())


def booking(transaction_id: str, book: Book, manner: Manner = Manner.AT_ONCE) -> Command:
    """The command to book. Raises Invalid."""
    asked = msgspec.json.encode((checked_address(book.address), checked_parcels(book.parcels)))
    return _about_booking(transaction_id, Operation.DO, asked, book, manner)


def confirmation(transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Command:
    """The command to make final what is held or prepared."""
    return _about_booking(transaction_id, Operation.CONFIRM, b"", Confirm(), manner)


def cancellation(transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Command:
    """The command to take a booking back, however it was made."""
    return _about_booking(transaction_id, Operation.UNDO, b"", Cancel(), manner)


def _about_booking(transaction_id: str, operation: Operation, asked: bytes, effect: Effect, manner: Manner) -> Command:
    key = Key(transaction_id, BOOK_SHIPMENT, operation)
    return Command(Entry(key, hashlib.sha256(asked).digest(), manner=manner), effect)


class ShippingHandlers:
    def __init__(self, units: Units, days_ahead: int) -> None:
        self._units = units
        self._days_ahead = days_ahead

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Has each effect at most once and answers each command on its own."""
        async with self._units.open() as unit:
            return await execute(unit, commands, self._days_ahead)


async def execute(unit: Unit, commands: Sequence[Command], days_ahead: int) -> list[Outcome]:
    """One outcome for each command, in order."""
    return [_outcome(answer) for _, answer in await _execute(unit, commands, days_ahead)]


async def prepare(unit: Unit, command: Command, days_ahead: int) -> tuple[Outcome, bool]:
    """The outcome of one command, and whether there is now something to prepare: had just now, and not refused."""
    ((claim, answer),) = await _execute(unit, [command], days_ahead)
    answered = _outcome(answer)
    return answered, isinstance(claim, First) and isinstance(answered, Done)


async def _execute(
    unit: Unit, commands: Sequence[Command], days_ahead: int
) -> list[tuple[Claim, Answer[Done] | DockyardError]]:
    claims = await unit.barrier.claim([command.entry for command in commands])
    answers = [settled(claim, _read, NOTHING) for claim in claims]
    work = {number: command for number, command in enumerate(commands) if answers[number] is None}
    for number, answer in (await _work(unit, work, days_ahead)).items():
        answers[number] = answer
    final = [answer for answer in answers if answer is not None]
    assert len(final) == len(commands), "a command was left without an answer"
    await unit.barrier.answer(
        [
            (command.entry.key, msgspec.json.encode(answer))
            for command, claim, answer in zip(commands, claims, final, strict=True)
            if is_kept(claim, answer)
        ]
    )
    return list(zip(claims, final, strict=True))


async def _work(unit: Unit, work: Mapping[int, Command], days_ahead: int) -> Decided:
    """In this order everybody locks: shipments, then days."""
    created = await _create(unit, _asked(work, CreateCarrier))
    ended, given_back = await _end(unit, {**_asked(work, Confirm), **_asked(work, Cancel)})
    dispatched = await _dispatch(unit, _asked(work, Dispatch))
    booked = await _book(unit, _asked(work, Book), given_back, days_ahead)
    return created | ended | dispatched | booked


def _asked(work: Mapping[int, Command], kind: type[E]) -> dict[int, tuple[Entry, E]]:
    return {
        number: (command.entry, command.effect) for number, command in work.items() if isinstance(command.effect, kind)
    }


async def _end(unit: Unit, asked: Mapping[int, tuple[Entry, Confirm | Cancel]]) -> tuple[Decided, list[Place]]:
    """Makes final, or takes back, what is there; the places are free again."""
    found = await unit.shipping.lock_shipments({entry.key.transaction_id for entry, _ in asked.values()})
    decided: Decided = {}
    changed: list[Shipment] = []
    given_back: list[Place] = []
    for number, (entry, effect) in asked.items():
        shipment = found.get(entry.key.transaction_id)
        try:
            status = _ending(effect, shipment.status if shipment else None)
        except Refused as error:
            decided[number] = refusal(error)
            continue
        if shipment is not None and status is not shipment.status:
            changed.append(replace(shipment, status=status))
            given_back += [shipment.place] if status is Status.CANCELLED else []
        nothing_left = status is Status.CANCELLED and isinstance(effect, Confirm)
        decided[number] = NOTHING if shipment is None or nothing_left else _done(shipment)
    await unit.shipping.save_statuses(changed)
    return decided, given_back


def _ending(effect: Confirm | Cancel, status: Status | None) -> Status:
    return confirmed(status) if isinstance(effect, Confirm) else cancelled(status)


@dataclass(slots=True)
class _Room:
    """Who serves, on which days, what is taken there, and what this batch changed of it."""

    services: Sequence[Service] = ()
    days: Sequence[date] = ()
    booked: dict[Day, int] = field(default_factory=dict)
    changed: dict[Day, int] = field(default_factory=dict)

    def add(self, day: Day, parcels: int) -> None:
        self.booked[day] = self.booked.get(day, 0) + parcels
        self.changed[day] = self.changed.get(day, 0) + parcels


async def _book(
    unit: Unit, asked: Mapping[int, tuple[Entry, Book]], given_back: Sequence[Place], days_ahead: int
) -> Decided:
    """Gives each parcel the earliest place, one after another, counting those before it."""
    left = await _lock_room(unit, list(asked.values()), {place.day for place in given_back}, days_ahead)
    for place in given_back:
        left.add(place.day, -place.parcels)
    decided: Decided = {}
    new: list[NewShipment] = []
    for number, (entry, book) in asked.items():
        try:
            place = choose(book.address.zone, book.parcels, left.services, left.booked, left.days)
        except Refused as error:
            decided[number] = refusal(error)
            continue
        left.add(place.day, place.parcels)
        new.append(_new_shipment(entry, book, place))
        decided[number] = _done(new[-1].shipment)
    await unit.shipping.count({day: parcels for day, parcels in left.changed.items() if parcels})
    await unit.shipping.add_shipments(new)
    return decided


async def _lock_room(
    unit: Unit, asked: Sequence[tuple[Entry, Book]], given_back: Collection[Day], days_ahead: int
) -> _Room:
    if not asked:
        return _Room(booked=dict(await unit.shipping.lock_days(given_back)))
    services = await unit.shipping.services({book.address.zone for _, book in asked})
    days = days_from(min(book.at for _, book in asked).date(), days_ahead)
    match asked:
        case [(Entry(manner=Manner.PREPARE), book)]:
            return _Room(services, days, await _lock_until_room(unit, book, services, days))
        case _:
            return _Room(services, days, dict(await unit.shipping.lock_days(days_of(services, days) | set(given_back))))


async def _lock_until_room(unit: Unit, book: Book, services: Sequence[Service], days: Sequence[date]) -> dict[Day, int]:
    """Locks day after day, none behind the first with room: what a prepared transaction locks stays locked."""
    booked: dict[Day, int] = {}
    for day in days:
        booked |= await unit.shipping.lock_days(days_of(services, [day]))
        if room(book.address.zone, book.parcels, services, booked, day):
            break
    return booked


def _new_shipment(entry: Entry, book: Book, place: Place) -> NewShipment:
    transaction_id = entry.key.transaction_id
    shipment_id = shipment_id_of(transaction_id)
    label = f"{place.carrier_id.upper()}-{place.ship_date:%Y%m%d}-{shipment_id[-12:].upper()}"
    address = msgspec.json.encode(book.address).decode()
    status = BEGINNINGS[entry.manner]
    shipment = Shipment(shipment_id, transaction_id, place, address, status, label, book.at)
    return NewShipment(shipment, book.lease_ms if status is Status.HELD else None)


def _done(shipment: Shipment) -> Answer[Done]:
    return Answer(Done(shipment.shipment_id, shipment.place.carrier_id, shipment.place.ship_date.isoformat()))


async def _dispatch(unit: Unit, asked: Mapping[int, tuple[Entry, Dispatch]]) -> Decided:
    """Hands each released shipment to its carrier, and tells the world."""
    return {number: await _dispatch_one(unit, effect) for number, (_, effect) in asked.items()}


async def _dispatch_one(unit: Unit, effect: Dispatch) -> Answer[Done] | DockyardError:
    shipment = await unit.shipping.lock_shipment(effect.shipment_id)
    if shipment is None:
        return NotFound(f"there is no shipment {effect.shipment_id}")
    if shipment.status not in {Status.RELEASED, Status.DISPATCHED}:
        return Conflict(f"the shipment is {shipment.status}; its order must be confirmed first", code="not-released")
    if shipment.status is Status.RELEASED:
        await unit.shipping.dispatch(shipment, effect.at, effect.traceparent)
    return _done(shipment)


async def _create(unit: Unit, asked: Mapping[int, tuple[Entry, CreateCarrier]]) -> Decided:
    decided: Decided = {}
    for number, (_, effect) in asked.items():
        await unit.shipping.create_carrier(effect.carrier_id, effect.name, effect.services)
        decided[number] = Answer(Done(carrier_id=effect.carrier_id))
    return decided


def _outcome(answer: Answer[Done] | DockyardError) -> Outcome:
    return outcome(answer)


def batch_key(command: Command) -> tuple[str, str]:
    """Commands about one effect never share a batch."""
    return command.entry.key.transaction_id, command.entry.key.step
