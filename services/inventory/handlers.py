"""Load many, decide each, record many: one transaction for however many commands arrived together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from libs.kernel.errors import DockyardError, Mismatch, NotFound, Refused
from libs.tcc.barrier import Claim, Empty, Entry, First, Replay, Suspended, Unfinished
from libs.tcc.barrier import Mismatch as OtherRequest
from services.inventory.domain import Line, Product, deduct, receive, restock
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
class Command:
    """One effect, under the key that lets it happen once."""

    entry: Entry
    effect: Deduct | Restock | CreateProducts | ReceiveStock


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


async def _work(
    unit: Unit, work: Sequence[Command], taken_back: Mapping[str, Deduction]
) -> list[Answer | DockyardError]:
    """Decides each command on the stock that the ones before it left, then records all of it."""
    stock = dict(await unit.products.lock({sku for command in work for sku in _skus(command, taken_back)}))
    before = dict(stock)
    answers: list[Answer | DockyardError] = []
    deductions = []
    created: dict[str, Listing] = {}
    for command in work:
        changed, done = list[Product](), Done()
        try:
            match command.effect:
                case Deduct(lines=lines):
                    changed, done = deduct(stock, lines), Done(lines=lines)
                    deductions.append(Deduction(command.entry.key.transaction_id, lines))
                case Restock():
                    deduction = taken_back.get(command.entry.key.transaction_id)
                    lines = deduction.lines if deduction else ()
                    changed = restock(stock, lines)
                    done = Done(lines=lines)
                case CreateProducts(products=products, traceparent=traceparent):
                    changed = []
                    for product in products:
                        if product.sku not in stock:
                            created.setdefault(product.sku, Listing(product, traceparent))
                    done = Done(skus=tuple(product.sku for product in products))
                case ReceiveStock(sku=sku, quantity=quantity):
                    changed = [receive(_existing(stock, sku), quantity)]
                    done = Done(skus=(sku,))
        except Refused as refusal:
            answers.append(Answer(None, refusal.code, refusal.message, dict(refusal.details)))
            continue
        except DockyardError as error:
            answers.append(error)
            continue
        stock.update((product.sku, product) for product in changed)
        answers.append(Answer(done=done))
    await unit.products.save_stock([product for sku, product in stock.items() if before[sku] is not product])
    await unit.products.add(list(created.values()))
    await unit.deductions.add(deductions)
    return answers


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


def _existing(stock: dict[str, Product], sku: str) -> Product:
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
