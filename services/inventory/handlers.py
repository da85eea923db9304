"""Load many, decide each, record many: one transaction for however many commands arrived together."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from libs.kernel.errors import DockyardError, NotFound, Refused
from libs.tcc.answers import Answer, is_kept, outcome, refusal, settled
from libs.tcc.barrier import Claim, Entry, First, Key, Manner, Operation
from services.inventory.domain import (
    BEGINNING,
    ENDING,
    Line,
    Product,
    Status,
    checked,
    confirmed,
    receive,
    relist,
)
from services.inventory.ports import Deduction, Listing, NewDeduction, Unit, Units

DEDUCT_STOCK = "deduct-stock"
# What a deduction is at first: one that is prepared is seen only when its order is confirmed, and needs no hold then.
BEGINNINGS: Mapping[Manner, Status] = {
    Manner.AT_ONCE: Status.DEDUCTED,
    Manner.HOLD: Status.HELD,
    Manner.PREPARE: Status.DEDUCTED,
}


@dataclass(frozen=True, slots=True)
class Deduct:
    """Stock that is only held asks after `lease_ms` what became of its transaction."""

    lines: tuple[Line, ...]
    lease_ms: int = 0


@dataclass(frozen=True, slots=True)
class Confirm:
    pass


@dataclass(frozen=True, slots=True)
class Restock:
    pass


@dataclass(frozen=True, slots=True)
class CreateProducts:
    products: tuple[Product, ...]
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ReceiveStock:
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class BindKey:
    """Nothing but the claim itself: the key belongs to this request, and to no other from now on."""


Effect = Deduct | Confirm | Restock | CreateProducts | ReceiveStock | BindKey


@dataclass(frozen=True, slots=True)
class Command:
    """One effect, under the key that lets it happen once."""

    entry: Entry
    effect: Effect


class Done(msgspec.Struct, frozen=True):
    """The answer: the lines taken, confirmed or put back, or the skus created or stocked."""

    lines: tuple[Line, ...] = ()
    skus: tuple[str, ...] = ()


Outcome = Done | DockyardError
Answered = Answer[Done] | DockyardError

_read = msgspec.json.Decoder(Answer[Done]).decode
NOTHING = Answer(Done())


def deduction(
    transaction_id: str, lines: Sequence[Line], manner: Manner = Manner.AT_ONCE, lease_ms: int = 0
) -> Command:
    """The command to take stock: all lines or none. Raises Invalid."""
    wanted = checked(lines)
    return command(Key(transaction_id, DEDUCT_STOCK, Operation.DO), wanted, Deduct(wanted, lease_ms), manner)


def confirmation(transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Command:
    """The command to make final what is held or prepared."""
    return command(Key(transaction_id, DEDUCT_STOCK, Operation.CONFIRM), None, Confirm(), manner)


def taking_back(transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Command:
    """The command to put stock back, however it was taken."""
    return command(Key(transaction_id, DEDUCT_STOCK, Operation.UNDO), None, Restock(), manner)


def command(key: Key, asked: Any, effect: Effect, manner: Manner = Manner.AT_ONCE) -> Command:
    """The effect under its key; `asked` is what tells a repeat from another request."""
    return Command(Entry(key, hashlib.sha256(msgspec.json.encode(asked)).digest(), manner=manner), effect)


class InventoryHandlers:
    def __init__(self, units: Units) -> None:
        self._units = units

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Has each effect at most once and answers each command on its own."""
        async with self._units.open() as unit:
            return await execute(unit, commands)


async def execute(unit: Unit, commands: Sequence[Command]) -> list[Outcome]:
    """One outcome for each command, in order."""
    return [_outcome(answer) for _, answer in await _execute(unit, commands)]


async def prepare(unit: Unit, command: Command) -> tuple[Outcome, bool]:
    """The outcome of one command, and whether there is now something to prepare: had just now, and not refused."""
    ((claim, answer),) = await _execute(unit, [command])
    answered = _outcome(answer)
    return answered, isinstance(claim, First) and isinstance(answered, Done)


async def _execute(unit: Unit, commands: Sequence[Command]) -> list[tuple[Claim, Answered]]:
    claims = await unit.barrier.claim([command.entry for command in commands])
    known = [settled(claim, _read, NOTHING) for claim in claims]
    had = iter(await _work(unit, [command for command, answer in zip(commands, known, strict=True) if answer is None]))
    final = [next(had) if answer is None else answer for answer in known]
    await unit.barrier.answer(
        [
            (command.entry.key, msgspec.json.encode(answer))
            for command, claim, answer in zip(commands, claims, final, strict=True)
            if is_kept(claim, answer)
        ]
    )
    return list(zip(claims, final, strict=True))


@dataclass(slots=True)
class _Work:
    """The stock as the commands so far left it, what was taken before, and what is to be recorded of them."""

    stock: dict[str, Product]
    taken: Mapping[str, Deduction]
    listings: dict[str, Listing] = field(default_factory=dict)
    new: list[NewDeduction] = field(default_factory=list)
    ended: list[Deduction] = field(default_factory=list)

    def keep(self, products: Sequence[Product]) -> None:
        self.stock.update((product.sku, product) for product in products)


async def _work(unit: Unit, commands: Sequence[Command]) -> list[Answered]:
    """Decides each command on the stock that the ones before it left, then records all of it.

    In this order everybody locks: deductions, then products.
    """
    ending = [one.entry.key.transaction_id for one in commands if isinstance(one.effect, Confirm | Restock)]
    taken = await unit.deductions.lock(ending)
    before = await unit.products.lock({sku for command in commands for sku in _skus(command, taken)})
    work = _Work(dict(before), taken)
    answers = [_answer(work, command) for command in commands]
    known = [product for sku, product in work.stock.items() if sku in before and product is not before[sku]]
    await unit.products.save_stock(known)
    await unit.products.relist([product for product in known if product.sku in work.listings])
    await unit.products.add([product for sku, product in work.stock.items() if sku not in before])
    await unit.deductions.add(work.new)
    await unit.deductions.save_statuses(work.ended)
    await unit.catalogue.announce(list(work.listings.values()))
    return answers


def _answer(work: _Work, command: Command) -> Answered:
    try:
        return Answer(_decide(work, command.entry, command.effect))
    except Refused as error:
        return refusal(error)
    except DockyardError as error:
        return error


def _decide(work: _Work, entry: Entry, effect: Effect) -> Done:
    """Has the effect; one that raises has changed nothing."""
    match effect:
        case Deduct():
            return _begin(work, entry, effect)
        case Confirm() | Restock():
            return _end(work, work.taken.get(entry.key.transaction_id), effect)
        case CreateProducts(products=products, traceparent=traceparent):
            for wanted in products:
                _list(work, wanted, traceparent)
            return Done(skus=tuple(product.sku for product in products))
        case ReceiveStock(sku=sku, quantity=quantity):
            work.keep([receive(_existing(work.stock, sku), quantity)])
            return Done(skus=(sku,))
        case BindKey():
            return Done()


def _begin(work: _Work, entry: Entry, effect: Deduct) -> Done:
    status = BEGINNINGS[entry.manner]
    work.keep(BEGINNING[status](work.stock, effect.lines))
    begun = Deduction(entry.key.transaction_id, effect.lines, status)
    work.new.append(NewDeduction(begun, effect.lease_ms if status is Status.HELD else None))
    return Done(lines=effect.lines)


def _end(work: _Work, before: Deduction | None, effect: Confirm | Restock) -> Done:
    """Makes final, or puts back, what was taken; the lines are empty where nothing is left to do that with."""
    status = _ending(before, effect)
    if before is None or before.status is Status.RESTOCKED:
        return Done()
    if status is not before.status:
        work.keep(ENDING[before.status, status](work.stock, before.lines))
        work.ended.append(replace(before, status=status))
    return Done(lines=before.lines)


def _ending(before: Deduction | None, effect: Confirm | Restock) -> Status:
    """Raises Refused."""
    return Status.RESTOCKED if isinstance(effect, Restock) else confirmed(before.status if before else None)


def _list(work: _Work, wanted: Product, traceparent: str) -> None:
    """Adds the product, or gives the one that exists its new name and price."""
    known = work.stock.get(wanted.sku)
    product = wanted if known is None else relist(known, wanted)
    if product is not known:
        work.stock[product.sku] = product
        work.listings[product.sku] = Listing(product, traceparent)


def _skus(command: Command, taken: Mapping[str, Deduction]) -> Sequence[str]:
    """The products a command may change; an end that changes nothing waits for no product."""
    match command.effect:
        case Deduct(lines=lines):
            return [line.sku for line in lines]
        case Confirm() | Restock() as effect:
            before = taken.get(command.entry.key.transaction_id)
            moves = before is not None and _ending(before, effect) is not before.status
            return [line.sku for line in before.lines] if before is not None and moves else []
        case CreateProducts(products=products):
            return [product.sku for product in products]
        case ReceiveStock(sku=sku):
            return [sku]
        case BindKey():
            return []


def _existing(stock: Mapping[str, Product], sku: str) -> Product:
    if sku not in stock:
        raise NotFound(f"there is no product {sku}")
    return stock[sku]


def _outcome(answer: Answered) -> Outcome:
    return outcome(answer)


def batch_key(command: Command) -> tuple[str, str]:
    """Commands about one effect never share a batch."""
    return command.entry.key.transaction_id, command.entry.key.step
