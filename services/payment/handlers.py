"""The two transactions around a call to the card processor, each in batches: begin it, and settle what it said.

The processor is never called inside a transaction. What was begun and not settled, because a process died or the
answer was lost, is carried on by whoever asks again: the payment's id is the key the processor knows it by.

In either, what is answered is kept, and said to those it is owed to.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from libs.kernel.errors import DockyardError, Refused
from libs.kernel.money import Money
from libs.tcc.answers import Answer, is_kept, outcome, refusal, settled
from libs.tcc.barrier import Claim, Entry, First, Key, Manner, Operation, Unfinished
from services.payment.domain import (
    Declined,
    Payment,
    Status,
    Verdict,
    captured,
    checked,
    judged,
    moved,
    refunded,
    voided,
    wanted_back,
    wanted_for_good,
)
from services.payment.domain import Entry as LedgerEntry
from services.payment.ports import NewPayment, Unit, Units


@dataclass(frozen=True, slots=True)
class BeginCharge:
    """To be charged, or authorised, as the payment's status says; then it asks after `lease_ms` what became of it."""

    entry: Entry
    payment: Payment
    lease_ms: int = 0


@dataclass(frozen=True, slots=True)
class BeginCapture:
    entry: Entry


@dataclass(frozen=True, slots=True)
class BeginRefund:
    """Takes back what there is: a charge is refunded, an authorisation given up. `announced`: somebody waits for it."""

    entry: Entry
    announced: bool = False


@dataclass(frozen=True, slots=True)
class OpenAccount:
    entry: Entry
    account_id: str
    name: str


Begin = BeginCharge | BeginCapture | BeginRefund | OpenAccount


@dataclass(frozen=True, slots=True)
class SettleCharge:
    key: Key
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SettleCapture:
    key: Key


@dataclass(frozen=True, slots=True)
class SettleVoid:
    key: Key


@dataclass(frozen=True, slots=True)
class SettleRefund:
    key: Key


Settle = SettleCharge | SettleCapture | SettleVoid | SettleRefund


class Done(msgspec.Struct, frozen=True):
    """The answer; empty where there was nothing to take back, or nothing left to confirm."""

    payment_id: str = ""
    amount: Money | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """The processor has to be asked about this payment before there is an answer."""

    payment: Payment


Begun = Done | Ask | DockyardError


@dataclass(frozen=True, slots=True)
class _Begun:
    """What becomes of one command: `payment` and `account` are to be written down, the first as `new` or changed."""

    outcome: Answer[Done] | Ask | DockyardError
    payment: Payment | None = None
    new: NewPayment | None = None
    account: OpenAccount | None = None
    announced: bool = False


_read = msgspec.json.Decoder(Answer[Done]).decode
NOTHING = Answer(Done())
NOT_A_CHARGE = Answer[Any](code="not-a-charge", message="what was done under this key charged nobody")
UNDONE = Answer[Any](code="undone-before-done", message="it was undone before it was done")


def charging(payment: Payment, manner: Manner = Manner.AT_ONCE, lease_ms: int = 0) -> BeginCharge:
    """The command to charge, or to authorise. Raises Invalid."""
    checked(payment)
    asked = f"{payment.account_id}\0{payment.amount}\0{payment.card_token}"
    key = Key(payment.transaction_id, payment.step, Operation.DO)
    return BeginCharge(_entry(key, asked, manner), payment, lease_ms)


def capturing(transaction_id: str, step: str, manner: Manner = Manner.AT_ONCE) -> BeginCapture:
    """The command to take what was authorised."""
    return BeginCapture(_entry(Key(transaction_id, step, Operation.CONFIRM), "", manner))


def taking_back(
    transaction_id: str, step: str, manner: Manner = Manner.AT_ONCE, *, announced: bool = False
) -> BeginRefund:
    """The command to take a charge back, however it was made."""
    return BeginRefund(_entry(Key(transaction_id, step, Operation.UNDO), "", manner), announced)


def opening(key: str, account_id: str, name: str) -> OpenAccount:
    """The command to open an account, or to rename it."""
    entry = _entry(Key(f"key:{key}", "open-account", Operation.DO), f"{account_id}\0{name}", Manner.AT_ONCE)
    return OpenAccount(entry, account_id, name)


def _entry(key: Key, asked: str, manner: Manner) -> Entry:
    return Entry(key, hashlib.sha256(asked.encode()).digest(), manner=manner)


class PaymentHandlers:
    def __init__(self, units: Units) -> None:
        self._units = units

    async def begin(self, commands: Sequence[Begin]) -> Sequence[Begun]:
        """Claims each effect and writes down what is about to be asked of the processor."""
        async with self._units.open() as unit:
            return await begin(unit, commands)

    async def settle(self, commands: Sequence[Settle]) -> Sequence[Done | DockyardError]:
        """Writes down what the processor said, moves the money in the ledger, and keeps the answer."""
        async with self._units.open() as unit:
            return await settle(unit, commands)


async def begin(unit: Unit, commands: Sequence[Begin]) -> list[Begun]:
    claims = await unit.barrier.claim([command.entry for command in commands])
    claimed = [
        (command, claim, settled(claim, _read, NOTHING)) for command, claim in zip(commands, claims, strict=True)
    ]
    asked = [batch_key(command) for command, claim, known in claimed if known is None and _has_payment(command, claim)]
    payments = await unit.payments.lock(asked)
    begun = [
        _Begun(answer) if answer is not None else _work(command, payments.get(batch_key(command)))
        for command, _, answer in claimed
    ]
    await unit.payments.add([one.new for one in begun if one.new])
    await unit.payments.save([one.payment for one in begun if one.payment])
    # The last of a batch names the account, as if they had come one by one.
    await unit.payments.name_accounts({one.account.account_id: one.account.name for one in begun if one.account})
    await _keep(
        unit,
        [
            (command.entry.key, one.outcome, one.announced)
            for (command, claim, _), one in zip(claimed, begun, strict=True)
            if isinstance(one.outcome, Answer) and is_kept(claim, one.outcome)
        ],
    )
    return [one.outcome if isinstance(one.outcome, Ask) else _outcome(one.outcome) for one in begun]


def _has_payment(command: Begin, claim: Claim) -> bool:
    """Whether an earlier transaction may have written a payment for this effect; a first charge has none."""
    match command:
        case BeginCharge():
            return isinstance(claim, Unfinished)
        case BeginCapture() | BeginRefund():
            return isinstance(claim, First | Unfinished)
        case OpenAccount():
            return False


def _work(command: Begin, known: Payment | None) -> _Begun:
    match command:
        case OpenAccount():
            return _Begun(Answer(Done()), account=command)
        case BeginCharge(payment=payment) if known is None:
            lease_ms = command.lease_ms if payment.status is Status.AUTHORISING else None
            return _Begun(Ask(payment), new=NewPayment(payment, lease_ms))
        case BeginCharge():
            assert known is not None
            return _charge_again(command, known)
        case BeginCapture():
            return _capture(known)
        case BeginRefund():
            return _take_back(command, known)


def _charge_again(command: BeginCharge, known: Payment) -> _Begun:
    """The charge was begun before and is not answered; it may have been taken back meanwhile."""
    if known.status in {Status.VOIDING, Status.VOIDED}:
        return _Begun(UNDONE, announced=known.announced)
    after = replace(known, announced=known.announced or command.payment.announced)
    return _Begun(Ask(after), after if after != known else None)


def _capture(known: Payment | None) -> _Begun:
    try:
        after = wanted_for_good(known)
    except Refused as error:
        return _Begun(refusal(error))
    match after.status:
        case Status.CHARGED:
            return _Begun(_done(after))
        case Status.VOIDING | Status.VOIDED | Status.REFUNDING | Status.REFUNDED:
            return _Begun(NOTHING)
        case _:
            return _Begun(Ask(after), after if after != known else None)


def _take_back(command: BeginRefund, known: Payment | None) -> _Begun:
    if known is None:
        return _Begun(NOT_A_CHARGE)
    match known.status:
        case Status.DECLINED:
            return _Begun(NOTHING, announced=known.announced)
        case Status.REFUNDED | Status.VOIDED:
            return _Begun(_done(known), announced=known.announced)
        case _:
            after = replace(wanted_back(known), announced=known.announced or command.announced)
            return _Begun(Ask(after), after if after != known else None)


async def settle(unit: Unit, commands: Sequence[Settle]) -> list[Done | DockyardError]:
    known = await unit.payments.lock([settle_key(command) for command in commands])
    settled = [_settled(command, known[settle_key(command)]) for command in commands]
    await unit.payments.save([one.payment for one in settled if one.changed])
    await unit.payments.post([one.entry for one in settled if one.entry])
    await _keep(
        unit,
        [(command.key, one.answer, one.payment.announced) for command, one in zip(commands, settled, strict=True)],
    )
    return [_outcome(one.answer) for one in settled]


async def _keep(unit: Unit, answers: Sequence[tuple[Key, Answer[Done], bool]]) -> None:
    """Keeps each answer, and says it where somebody waits for it."""
    await unit.barrier.answer([(key, msgspec.json.encode(answer)) for key, answer, _ in answers])
    await unit.announcements.say([(key, _told(answer)) for key, answer, announced in answers if announced])


def _told(answer: Answer[Done]) -> str | Refused:
    """The payment's id, or why there is none."""
    return answer.done.payment_id if answer.done else Refused(answer.message, code=answer.code)


@dataclass(frozen=True, slots=True)
class _Settled:
    payment: Payment
    answer: Answer[Done]
    entry: LedgerEntry | None = None
    changed: bool = False


def _settled(command: Settle, payment: Payment) -> _Settled:
    """What the processor said, applied once: a payment that is further on already only answers."""
    match command:
        case SettleCharge(verdict=verdict) if payment.status in {Status.CHARGING, Status.AUTHORISING}:
            after, entry = judged(payment, verdict)
            return _Settled(after, _charge_answer(after, verdict), entry, changed=True)
        case SettleCharge(verdict=verdict):
            return _Settled(payment, _charge_answer(payment, verdict))
        case SettleCapture() if payment.status is Status.CAPTURING:
            after, entry = captured(payment)
            return _Settled(after, _done(after), entry, changed=True)
        case SettleVoid() if payment.status is Status.VOIDING:
            after = voided(payment)
            return _Settled(after, _done(after), changed=True)
        case SettleRefund() if payment.status is Status.REFUNDING:
            after, entry = refunded(payment)
            return _Settled(after, _done(after), entry, changed=True)
        case SettleCapture() | SettleVoid() | SettleRefund():
            assert payment.status in FURTHER[type(command)], f"{payment.payment_id} is {payment.status}"
            return _Settled(payment, _done(payment))


# Where a payment may have got to before somebody hears once more what the processor said.
FURTHER: dict[type[SettleCapture | SettleVoid | SettleRefund], frozenset[Status]] = {
    SettleCapture: frozenset({Status.CHARGED, Status.REFUNDING, Status.REFUNDED}),
    SettleVoid: frozenset({Status.VOIDED}),
    SettleRefund: frozenset({Status.REFUNDED}),
}


def _charge_answer(payment: Payment, verdict: Verdict) -> Answer[Done]:
    if payment.decline_code:
        message = verdict.message if isinstance(verdict, Declined) else ""
        return Answer(code=payment.decline_code, message=message or "the card was declined")
    never_authorised = payment.status in {Status.VOIDING, Status.VOIDED} and not payment.processor_reference
    return UNDONE if never_authorised else _done(payment)


def _done(payment: Payment) -> Answer[Done]:
    return Answer(Done(payment.payment_id, payment.amount))


def _outcome(answer: Answer[Done] | DockyardError) -> Done | DockyardError:
    return outcome(answer)


async def prepare(unit: Unit, key: Key) -> tuple[Done | DockyardError, bool]:
    """Goes from authorised to capturing; the outcome, and whether there is now something to prepare."""
    pair = key.transaction_id, key.step
    payment = (await unit.payments.lock([pair])).get(pair)
    assert payment is not None, f"{key} was answered and has no payment"
    match payment.status:
        case Status.AUTHORISED:
            await unit.payments.save([moved(payment, Status.CAPTURING)])
            return _outcome(_done(payment)), True
        case Status.VOIDING | Status.VOIDED:
            return _outcome(UNDONE), False
        case _:
            return _outcome(_done(payment)), False


def batch_key(command: Begin) -> tuple[str, str]:
    """Commands about one effect never share a batch."""
    return command.entry.key.transaction_id, command.entry.key.step


def settle_key(command: Settle) -> tuple[str, str]:
    return command.key.transaction_id, command.key.step
