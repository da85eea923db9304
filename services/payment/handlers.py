"""The two transactions around a call to the card processor, each in batches: begin it, and settle what it said.

The processor is never called inside a transaction. What was begun and not settled, because a process died or the
answer was lost, is carried on by whoever asks again: the payment's id is the key the processor knows it by.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from libs.kernel.errors import DockyardError, Mismatch, Refused
from libs.kernel.money import Money
from libs.tcc.barrier import Claim, Empty, Entry, First, Key, Replay, Suspended, Unfinished
from libs.tcc.barrier import Mismatch as OtherRequest
from services.payment.domain import Declined, Payment, Status, Verdict, judged, moved, refunded
from services.payment.domain import Entry as LedgerEntry
from services.payment.ports import Unit, Units


@dataclass(frozen=True, slots=True)
class BeginCharge:
    entry: Entry
    payment: Payment


@dataclass(frozen=True, slots=True)
class BeginRefund:
    entry: Entry


@dataclass(frozen=True, slots=True)
class OpenAccount:
    entry: Entry
    account_id: str
    name: str


Begin = BeginCharge | BeginRefund | OpenAccount


@dataclass(frozen=True, slots=True)
class SettleCharge:
    key: Key
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SettleRefund:
    key: Key


Settle = SettleCharge | SettleRefund


class Done(msgspec.Struct, frozen=True):
    """The answer; empty where there was nothing to refund."""

    payment_id: str = ""
    amount: Money | None = None


class Answer(msgspec.Struct, frozen=True):
    """What the barrier keeps of a command: what was done, or why it was refused."""

    done: Done | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """The processor has to be asked about this payment before there is an answer."""

    payment: Payment


_decode = msgspec.json.Decoder(Answer).decode
NOTHING_CHARGED = Answer(done=Done())


class PaymentHandlers:
    def __init__(self, units: Units) -> None:
        self._units = units

    async def begin(self, commands: Sequence[Begin]) -> Sequence[Done | Ask | DockyardError]:
        """Claims each effect and writes down what is about to be asked of the processor."""
        async with self._units.open() as unit:
            return await begin(unit, commands)

    async def settle(self, commands: Sequence[Settle]) -> Sequence[Done | DockyardError]:
        """Writes down what the processor said, moves the money in the ledger, and keeps the answer."""
        async with self._units.open() as unit:
            return await settle(unit, commands)


async def begin(unit: Unit, commands: Sequence[Begin]) -> list[Done | Ask | DockyardError]:
    claims = await unit.barrier.claim([command.entry for command in commands])
    pairs = [(command.entry.key.transaction_id, command.entry.key.step) for command in commands]
    known = await unit.payments.lock(
        [pair for pair, claim in zip(pairs, claims, strict=True) if isinstance(claim, First | Unfinished)]
    )
    added = [
        command.payment
        for command, claim in zip(commands, claims, strict=True)
        if isinstance(command, BeginCharge) and isinstance(claim, First)
    ]
    await unit.payments.add(added)
    outcomes = [
        _begun(command, claim, known.get(pair)) for command, claim, pair in zip(commands, claims, pairs, strict=True)
    ]
    for command in commands:
        if isinstance(command, OpenAccount):
            await unit.payments.open_account(command.account_id, command.name)
    await unit.payments.save(_refunding(commands, outcomes))
    await _keep(unit, commands, claims, outcomes)
    return [_outcome(outcome) for outcome in outcomes]


def _begun(command: Begin, claim: Claim, known: Payment | None) -> Answer | Ask | DockyardError:
    match claim:
        case Replay(answer=kept):
            return _decode(kept)
        case Suspended():
            return Refused("it was undone before it was done", code="undone-before-done")
        case Empty():
            return NOTHING_CHARGED
        case OtherRequest():
            return Mismatch("this key was used with a different request; use a new key")
        case First() | Unfinished():
            return _work(command, known)


def _work(command: Begin, known: Payment | None) -> Answer | Ask:
    match command:
        case OpenAccount():
            return Answer(done=Done())
        case BeginCharge(payment=payment):
            return Ask(known or payment)
        case BeginRefund():
            # The do's row exists, so its payment does; a declined one holds no money.
            assert known is not None, f"{command.entry.key} was claimed by a charge without a payment"
            if known.status is Status.DECLINED:
                return NOTHING_CHARGED
            return Ask(moved(known, Status.REFUNDING) if known.status is Status.CHARGED else known)


def _refunding(commands: Sequence[Begin], outcomes: Sequence[Answer | Ask | DockyardError]) -> list[Payment]:
    return [
        outcome.payment
        for command, outcome in zip(commands, outcomes, strict=True)
        if isinstance(command, BeginRefund) and isinstance(outcome, Ask) and outcome.payment.status is Status.REFUNDING
    ]


async def _keep(
    unit: Unit, commands: Sequence[Begin], claims: Sequence[Claim], outcomes: Sequence[Answer | Ask | DockyardError]
) -> None:
    """Keeps the answers that needed no processor."""
    await unit.barrier.answer(
        [
            (command.entry.key, msgspec.json.encode(outcome))
            for command, claim, outcome in zip(commands, claims, outcomes, strict=True)
            if isinstance(claim, First | Empty | Unfinished) and isinstance(outcome, Answer)
        ]
    )


async def settle(unit: Unit, commands: Sequence[Settle]) -> list[Done | DockyardError]:
    known = await unit.payments.lock([(command.key.transaction_id, command.key.step) for command in commands])
    settled = [_settled(command, known[settle_key(command)]) for command in commands]
    await unit.payments.save([one.payment for one in settled if one.entry or one.payment.status is Status.DECLINED])
    await unit.payments.post([one.entry for one in settled if one.entry])
    await unit.barrier.answer(
        [(command.key, msgspec.json.encode(one.answer)) for command, one in zip(commands, settled, strict=True)]
    )
    return [_final(one.answer) for one in settled]


@dataclass(frozen=True, slots=True)
class _Settled:
    payment: Payment
    entry: LedgerEntry | None
    answer: Answer


def _settled(command: Settle, payment: Payment) -> _Settled:
    """What the processor said, applied once: a payment that is further on already only answers."""
    match command:
        case SettleCharge(verdict=verdict) if payment.status is Status.CHARGING:
            after, entry = judged(payment, verdict)
            message = verdict.message if isinstance(verdict, Declined) else ""
            return _Settled(after, entry, _charge_answer(after, message))
        case SettleCharge():
            return _Settled(payment, None, _charge_answer(payment, ""))
        case SettleRefund() if payment.status is Status.REFUNDING:
            after, entry = refunded(payment)
            return _Settled(after, entry, Answer(Done(payment.payment_id, payment.amount)))
        case SettleRefund():
            assert payment.status is Status.REFUNDED, f"{payment.payment_id} is {payment.status}"
            return _Settled(payment, None, Answer(Done(payment.payment_id, payment.amount)))


def _charge_answer(payment: Payment, message: str) -> Answer:
    if payment.status is Status.DECLINED:
        return Answer(None, payment.decline_code, message or "the card was declined")
    return Answer(Done(payment.payment_id, payment.amount))


def _outcome(answer: Answer | Ask | DockyardError) -> Done | Ask | DockyardError:
    return _final(answer) if isinstance(answer, Answer) else answer


def _final(answer: Answer) -> Done | DockyardError:
    return answer.done or Refused(answer.message, code=answer.code)


def batch_key(command: Begin) -> tuple[str, str]:
    """Commands about one effect never share a batch."""
    return command.entry.key.transaction_id, command.entry.key.step


def settle_key(command: Settle) -> tuple[str, str]:
    return command.key.transaction_id, command.key.step
