"""Load many, decide each, record many: one transaction for however many commands arrived together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from libs.kernel.errors import DockyardError, Mismatch, NotFound, Refused
from libs.tcc.barrier import Claim, Empty, Entry, First, Replay, Suspended, Unfinished
from libs.tcc.barrier import Mismatch as OtherRequest
from services.inventory.domain import Line, Product, deduct, receive, relist, restock
from services.inventory.ports import Deduction, Listing, Unit, Units


@dataclass(frozen=True, slots=True)
class Deduct:
    lines: tuple[Line, ...]


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


Effect = Deduct | Restock | CreateProducts | ReceiveStock | BindKey


@dataclass(frozen=True, slots=True)
class Command:
    """One effect, under the key that lets it happen once."""

    entry: Entry
    effect: Effect


class Done(msgspec.Struct, frozen=True):
    """The answer: the lines taken or put back, or the skus created or stocked."""

    lines: tuple[Line, ...] = ()
    skus: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What the barrier keeps of a command: what was done, or why it was refused."""

    done: Done | None = None
    code: str = ""
    message: str = ""
    details: dict[str, str] = {}


Outcome = Done | DockyardError

_decode = msgspec.json.Decoder(Answer).decode
NOTHING_TAKEN = Answer(done=Done())


class InventoryHandlers:
    def __init__(self, units: Units) -> None:
        self._units = units

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Has each effect at most once and answers each command on its own."""
        async with self._units.open() as unit:
            return await execute(unit, commands)


async def execute(unit: Unit, commands: Sequence[Command]) -> list[Outcome]:
    claims = await unit.barrier.claim([command.entry for command in commands])
    settled = [_settled(claim) for claim in claims]
    work = [command for command, answer in zip(commands, settled, strict=True) if answer is None]
    taken_back = await unit.deductions.take_back(
        [command.entry.key.transaction_id for command in work if isinstance(command.effect, Restock)]
    )
    answers = await _work(unit, work, taken_back)
    done = iter(answers)
    final = [answer or next(done) for answer in settled]
    kept = [
        (command.entry.key, answer)
        for command, claim, answer in zip(commands, claims, final, strict=True)
        if isinstance(claim, First | Empty | Unfinished) and isinstance(answer, Answer)
    ]
    await unit.barrier.answer([(key, msgspec.json.encode(answer)) for key, answer in kept])
    return [_outcome(answer) for answer in final]


@dataclass(slots=True)
class _Work:
    """The stock as the commands so far left it, and what is to be recorded of them."""

    stock: dict[str, Product]
    taken_back: Mapping[str, Deduction]
    listings: dict[str, Listing] = field(default_factory=dict)
    deductions: list[Deduction] = field(default_factory=list)

    def keep(self, products: Sequence[Product]) -> None:
        self.stock.update((product.sku, product) for product in products)


async def _work(
    unit: Unit, commands: Sequence[Command], taken_back: Mapping[str, Deduction]
) -> list[Answer | DockyardError]:
    """Decides each command on the stock that the ones before it left, then records all of it."""
    before = await unit.products.lock({sku for command in commands for sku in _skus(command, taken_back)})
    work = _Work(dict(before), taken_back)
    answers = [_answer(work, command) for command in commands]
    known = [product for sku, product in work.stock.items() if sku in before and product is not before[sku]]
    await unit.products.save_stock(known)
    await unit.products.relist([product for product in known if product.sku in work.listings])
    await unit.products.add([product for sku, product in work.stock.items() if sku not in before])
    await unit.deductions.add(work.deductions)
    await unit.catalogue.announce(list(work.listings.values()))
    return answers


def _answer(work: _Work, command: Command) -> Answer | DockyardError:
    try:
        return Answer(_decide(work, command.entry.key.transaction_id, command.effect))
    except Refused as refusal:
        return Answer(None, refusal.code, refusal.message, dict(refusal.details))
    except DockyardError as error:
        return error


def _decide(work: _Work, transaction_id: str, effect: Effect) -> Done:
    """Has the effect; one that raises has changed nothing."""
    match effect:
        case Deduct(lines=lines):
            work.keep(deduct(work.stock, lines))
            work.deductions.append(Deduction(transaction_id, lines))
            return Done(lines=lines)
        case Restock():
            deduction = work.taken_back.get(transaction_id)
            lines = deduction.lines if deduction else ()
            work.keep(restock(work.stock, lines))
            return Done(lines=lines)
        case CreateProducts(products=products, traceparent=traceparent):
            for wanted in products:
                _list(work, wanted, traceparent)
            return Done(skus=tuple(product.sku for product in products))
        case ReceiveStock(sku=sku, quantity=quantity):
            work.keep([receive(_existing(work.stock, sku), quantity)])
            return Done(skus=(sku,))
        case BindKey():
            return Done()


def _list(work: _Work, wanted: Product, traceparent: str) -> None:
    """Adds the product, or gives the one that exists its new name and price."""
    known = work.stock.get(wanted.sku)
    product = wanted if known is None else relist(known, wanted)
    if product is not known:
        work.stock[product.sku] = product
        work.listings[product.sku] = Listing(product, traceparent)


def _skus(command: Command, taken_back: Mapping[str, Deduction]) -> Sequence[str]:
    match command.effect:
        case Deduct(lines=lines):
            return [line.sku for line in lines]
        case Restock():
            deduction = taken_back.get(command.entry.key.transaction_id)
            return [line.sku for line in deduction.lines] if deduction else []
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


def _settled(claim: Claim) -> Answer | DockyardError | None:
    """The answer that needs no work; None where there is work to do."""
    match claim:
        case Replay(answer=kept):
            return _decode(kept)
        case Suspended():
            return Refused("it was undone before it was done", code="undone-before-done")
        case Empty():
            return NOTHING_TAKEN
        case OtherRequest():
            return Mismatch("this key was used with a different request; use a new key")
        case First(do_answer=kept) if kept is not None and _decode(kept).done is None:
            return NOTHING_TAKEN  # the do was refused: there is nothing to put back
        case First() | Unfinished():
            return None


def _outcome(answer: Answer | DockyardError) -> Outcome:
    if isinstance(answer, DockyardError):
        return answer
    return answer.done or Refused(answer.message, code=answer.code, details=answer.details)


def batch_key(command: Command) -> tuple[str, str]:
    """Commands about one effect never share a batch."""
    return command.entry.key.transaction_id, command.entry.key.step
