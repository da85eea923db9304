"""Bookings in batches. Shipping is flat: its handlers speak SQL through one store, and decide with `domain.choose`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from libs.kernel.errors import Conflict, DockyardError, Mismatch, NotFound, Refused
from libs.tcc.barrier import Claim, Empty, Entry, First, Replay, Suspended, Unfinished
from libs.tcc.barrier import Mismatch as OtherRequest
from services.shipping.domain import Day, Place, Service, choose, days_from
from services.shipping.ports import Shipment, Unit, Units


class Address(msgspec.Struct, frozen=True):
    name: str
    street: str
    city: str
    postcode: str
    zone: str


@dataclass(frozen=True, slots=True)
class Book:
    shipment_id: str
    address: Address
    parcels: int
    at: datetime


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


@dataclass(frozen=True, slots=True)
class Command:
    """One effect, under the key that lets it happen once."""

    entry: Entry
    effect: Book | Cancel | Dispatch | CreateCarrier


class Done(msgspec.Struct, frozen=True):
    """The answer; everything is empty where there was nothing to cancel."""

    shipment_id: str = ""
    carrier_id: str = ""
    ship_date: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What the barrier keeps of a command: what was done, or why it was refused."""

    done: Done | None = None
    code: str = ""
    message: str = ""
    details: dict[str, str] = {}


Outcome = Done | DockyardError

_decode = msgspec.json.Decoder(Answer).decode
NOTHING_BOOKED = Answer(done=Done())


class ShippingHandlers:
    def __init__(self, units: Units, days_ahead: int) -> None:
        self._units = units
        self._days_ahead = days_ahead

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Has each effect at most once and answers each command on its own."""
        async with self._units.open() as unit:
            return await execute(unit, commands, self._days_ahead)


async def execute(unit: Unit, commands: Sequence[Command], days_ahead: int) -> list[Outcome]:
    claims = await unit.barrier.claim([command.entry for command in commands])
    answers = [_settled(claim) for claim in claims]
    work = {number: command for number, command in enumerate(commands) if answers[number] is None}
    for decide in (_create, _cancel, _dispatch):
        for number, answer in (await decide(unit, work)).items():
            answers[number] = answer
    for number, answer in (await _book(unit, work, days_ahead)).items():
        answers[number] = answer
    final = [answer for answer in answers if answer is not None]
    assert len(final) == len(commands), "a command was left without an answer"
    await unit.barrier.answer(
        [
            (command.entry.key, msgspec.json.encode(answer))
            for command, claim, answer in zip(commands, claims, final, strict=True)
            if isinstance(claim, First | Empty | Unfinished) and isinstance(answer, Answer)
        ]
    )
    return [_outcome(answer) for answer in final]


Decided = dict[int, Answer | DockyardError]


async def _book(unit: Unit, work: dict[int, Command], days_ahead: int) -> Decided:
    """Gives each parcel the earliest place, one after another, counting those before it."""
    books = {number: command.effect for number, command in work.items() if isinstance(command.effect, Book)}
    if not books:
        return {}
    services = await unit.shipping.services({book.address.zone for book in books.values()})
    today = min(book.at for book in books.values()).date()
    days = days_from(today, days_ahead)
    booked = dict(await unit.shipping.lock_days(services, days))
    decided: Decided = {}
    shipments = []
    for number, book in books.items():
        try:
            place = choose(book.address.zone, book.parcels, services, booked, days)
        except Refused as refusal:
            decided[number] = Answer(None, refusal.code, refusal.message, dict(refusal.details))
            continue
        booked[place.day] = booked.get(place.day, 0) + book.parcels
        shipments.append(_shipment(work[number].entry.key.transaction_id, book, place))
        decided[number] = Answer(Done(book.shipment_id, place.carrier_id, place.ship_date.isoformat()))
    await unit.shipping.count(_added(shipments))
    await unit.shipping.add_shipments(shipments)
    return decided


def _shipment(transaction_id: str, book: Book, place: Place) -> Shipment:
    label = f"{place.carrier_id.upper()}-{place.ship_date:%Y%m%d}-{book.shipment_id[-12:].upper()}"
    address = msgspec.json.encode(book.address).decode()
    return Shipment(book.shipment_id, transaction_id, place, address, "booked", label, book.at)


def _added(shipments: Sequence[Shipment]) -> dict[Day, int]:
    added: dict[Day, int] = {}
    for shipment in shipments:
        added[shipment.place.day] = added.get(shipment.place.day, 0) + shipment.place.parcels
    return added


async def _cancel(unit: Unit, work: dict[int, Command]) -> Decided:
    """Gives each place back, unless the parcel has left."""
    wanted = {
        command.entry.key.transaction_id: number
        for number, command in work.items()
        if isinstance(command.effect, Cancel)
    }
    cancelled = await unit.shipping.cancel(wanted)
    await unit.shipping.count({day: -parcels for day, parcels in _added(cancelled).items()})
    decided: Decided = {
        wanted[shipment.transaction_id]: Answer(
            Done(shipment.shipment_id, shipment.place.carrier_id, shipment.place.ship_date.isoformat())
        )
        for shipment in cancelled
    }
    left = {number for number in wanted.values() if number not in decided}
    return decided | dict.fromkeys(left, Answer(None, "already-dispatched", "the parcel has left"))


async def _dispatch(unit: Unit, work: dict[int, Command]) -> Decided:
    """Hands each released shipment to its carrier, and tells the world."""
    decided: Decided = {}
    for number, command in work.items():
        if isinstance(command.effect, Dispatch):
            decided[number] = await _dispatch_one(unit, command.effect)
    return decided


async def _dispatch_one(unit: Unit, effect: Dispatch) -> Answer | DockyardError:
    shipment = await unit.shipping.lock_shipment(effect.shipment_id)
    if shipment is None:
        return NotFound(f"there is no shipment {effect.shipment_id}")
    if shipment.status not in {"released", "dispatched"}:
        return Conflict(f"the shipment is {shipment.status}; its order must be confirmed first", code="not-released")
    if shipment.status == "released":
        await unit.shipping.dispatch(shipment, effect.at, effect.traceparent)
    return Answer(Done(shipment.shipment_id, shipment.place.carrier_id, shipment.place.ship_date.isoformat()))


async def _create(unit: Unit, work: dict[int, Command]) -> Decided:
    decided: Decided = {}
    for number, command in work.items():
        if isinstance(command.effect, CreateCarrier):
            effect = command.effect
            await unit.shipping.create_carrier(effect.carrier_id, effect.name, effect.services)
            decided[number] = Answer(Done(carrier_id=effect.carrier_id))
    return decided


def _settled(claim: Claim) -> Answer | DockyardError | None:
    """The answer that needs no work; None where there is work to do."""
    match claim:
        case Replay(answer=kept):
            return _decode(kept)
        case Suspended():
            return Refused("it was undone before it was done", code="undone-before-done")
        case Empty():
            return NOTHING_BOOKED
        case OtherRequest():
            return Mismatch("this key was used with a different request; use a new key")
        case First(do_answer=kept) if kept is not None and _decode(kept).done is None:
            return NOTHING_BOOKED  # the do was refused: there is nothing to cancel
        case First() | Unfinished():
            return None


def _outcome(answer: Answer | DockyardError) -> Outcome:
    if isinstance(answer, DockyardError):
        return answer
    return answer.done or Refused(answer.message, code=answer.code, details=answer.details)


def batch_key(command: Command) -> tuple[str, str]:
    """Commands about one effect never share a batch."""
    return command.entry.key.transaction_id, command.entry.key.step
