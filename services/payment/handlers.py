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
from services.payment.domain import Declined, Payment, Status, Verdict, judged, refunded, wanted_back
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


@dataclass(frozen=True, slots=True)
class _Begun:
    """What becomes of one command: `payment` and `account` are to be written down, the first as `new` or changed."""

    outcome: Answer | Ask | DockyardError
    payment: Payment | None = None
    new: bool = False
    account: OpenAccount | None = None


_decode = msgspec.json.Decoder(Answer).decode
NOTHING_CHARGED = Answer(done=Done())
NOT_A_CHARGE = Answer(code="not-a-charge", message="what was done under this key charged nobody")


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
    claimed = list(zip(commands, claims, strict=True))
    known = await unit.payments.lock([batch_key(command) for command, claim in claimed if _has_payment(command, claim)])
    begun = [_begun(command, claim, known.get(batch_key(command))) for command, claim in claimed]
    await unit.payments.add([one.payment for one in begun if one.payment and one.new])
    await unit.payments.save([one.payment for one in begun if one.payment and not one.new])
    # The last of a batch names the account, as if they had come one by one.
    await unit.payments.name_accounts({one.account.account_id: one.account.name for one in begun if one.account})
    await unit.barrier.answer(
        [
            (command.entry.key, msgspec.json.encode(one.outcome))
            for (command, claim), one in zip(claimed, begun, strict=True)
            if isinstance(one.outcome, Answer) and not isinstance(claim, Replay)
        ]
    )
    return [_final(one.outcome) if isinstance(one.outcome, Answer) else one.outcome for one in begun]


def _has_payment(command: Begin, claim: Claim) -> bool:
    """Whether an earlier transaction may have written a payment for this effect; a first charge has none."""
    match command:
        case BeginCharge():
            return isinstance(claim, Unfinished)
        case BeginRefund():
            return isinstance(claim, First | Unfinished)
        case OpenAccount():
            return False


def _begun(command: Begin, claim: Claim, known: Payment | None) -> _Begun:
    match claim:
        case Replay(answer=kept):
            return _Begun(_decode(kept))
        case Suspended():
            return _Begun(Refused("it was undone before it was done", code="undone-before-done"))
        case Empty():
            return _Begun(NOTHING_CHARGED)
        case OtherRequest():
            return _Begun(Mismatch("this key was used with a different request; use a new key"))
        case First() | Unfinished():
            return _work(command, known)


def _work(command: Begin, known: Payment | None) -> _Begun:
    match command:
        case OpenAccount():
            return _Begun(Answer(done=Done()), account=command)
        case BeginCharge(payment=payment):
            return _Begun(Ask(known)) if known else _Begun(Ask(payment), payment, new=True)
        case BeginRefund():
            return _refund(known)


def _refund(known: Payment | None) -> _Begun:
    if known is None:
        return _Begun(NOT_A_CHARGE)
    if known.status is Status.DECLINED:
        return _Begun(NOTHING_CHARGED)
    after = wanted_back(known)
    return _Begun(Ask(after), after if after != known else None)


async def settle(unit: Unit, commands: Sequence[Settle]) -> list[Done | DockyardError]:
    known = await unit.payments.lock([settle_key(command) for command in commands])
    settled = [_settled(command, known[settle_key(command)]) for command in commands]
    await unit.payments.save([one.payment for one in settled if one.changed])
    await unit.payments.post([one.entry for one in settled if one.entry])
    await unit.barrier.answer(
        [(command.key, msgspec.json.encode(one.answer)) for command, one in zip(commands, settled, strict=True)]
    )
    return [_final(one.answer) for one in settled]


@dataclass(frozen=True, slots=True)
class _Settled:
    payment: Payment
    answer: Answer
    entry: LedgerEntry | None = None
    changed: bool = False


def _settled(command: Settle, payment: Payment) -> _Settled:
    """What the processor said, applied once: a payment that is further on already only answers."""
    match command:
        case SettleCharge(verdict=verdict) if payment.status is Status.CHARGING:
            after, entry = judged(payment, verdict)
            return _Settled(after, _charge_answer(after, verdict), entry, changed=True)
        case SettleCharge(verdict=verdict):
            return _Settled(payment, _charge_answer(payment, verdict))
        case SettleRefund() if payment.status is Status.REFUNDING:
            after, entry = refunded(payment)
            return _Settled(after, _done(after), entry, changed=True)
        case SettleRefund():
            assert payment.status is Status.REFUNDED, f"{payment.payment_id} is {payment.status}"
            return _Settled(payment, _done(payment))


def _charge_answer(payment: Payment, verdict: Verdict) -> Answer:
    if payment.status is not Status.DECLINED:
        return _done(payment)
    message = verdict.message if isinstance(verdict, Declined) else ""
    return Answer(code=payment.decline_code, message=message or "the card was declined")


def _done(payment: Payment) -> Answer:
    return Answer(Done(payment.payment_id, payment.amount))


def _final(answer: Answer) -> Done | DockyardError:
    return answer.done or Refused(answer.message, code=answer.code)


def batch_key(command: Begin) -> tuple[str, str]:
    """Commands about one effect never share a batch."""
    return command.entry.key.transaction_id, command.entry.key.step


def settle_key(command: Settle) -> tuple[str, str]:
    return command.key.transaction_id, command.key.step
