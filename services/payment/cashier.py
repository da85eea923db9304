"""Charging and refunding from beginning to end: begin in one transaction, ask the processor, settle in another."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from libs.kernel.errors import DockyardError, InDoubt, Refused, Unavailable
from libs.resilience.breaker import Breaker
from libs.resilience.deadline import Deadline
from libs.resilience.retry import retrying
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.single_flight import SingleFlight
from libs.tcc.barrier import Key, Manner, Operation
from libs.telemetry import names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import span
from services.payment.domain import Payment, Status
from services.payment.handlers import (
    Ask,
    Begin,
    Done,
    Settle,
    SettleCapture,
    SettleCharge,
    SettleRefund,
    SettleVoid,
    capturing,
    charging,
    opening,
    taking_back,
)
from services.payment.ports import Processor, Unfinished

# One round of tries; whoever asked may ask again, and a round under way is joined.
ATTEMPTS_MAX = 4
ROUND_SECONDS_MAX = 8.0
# Cards that misbehave come in handfuls, and each fails by itself; a processor that is down fails everybody.
FAILURES_MAX = 20
# Payments that a dead process left behind are carried on so many at a time.
RESUME_ROWS_MAX = 32

CALL_BEFORE, CALL_AFTER = "payment.call.before", "payment.call.after"
declare(CALL_BEFORE, CALL_AFTER)

log = get_logger(__name__)

R = TypeVar("R")


class Cashier:
    """Every charge, capture and refund happens at most once, however often and from wherever it is asked for."""

    def __init__(
        self,
        beginning: Batcher[Begin, Done | Ask],
        settling: Batcher[Settle, Done],
        processor: Processor,
        clock: Clock,
    ) -> None:
        self._beginning = beginning
        self._settling = settling
        self._processor = processor
        self._clock = clock
        self._breaker = Breaker("card processor", failures_max=FAILURES_MAX, clock=clock)
        self._running: SingleFlight[Done] = SingleFlight("card processor")

    async def charge(
        self,
        payment: Payment,
        deadline: Deadline | None = None,
        manner: Manner = Manner.AT_ONCE,
        lease_ms: int = 0,
    ) -> Done:
        """Charges, or authorises, as the payment's status says; an authorisation asks after `lease_ms`.

        Raises Refused with the processor's code when it declines, InDoubt while it does not answer. Unavailable
        promises that the card will not be charged unless somebody asks again.
        """
        command = charging(payment, manner, lease_ms)
        seconds = self._seconds_left(deadline)
        begun = await self._beginning.submit(command)
        if isinstance(begun, Done):
            return begun
        key = command.entry.key
        return await self._followed(key, lambda: self._charge(key, begun.payment, seconds))

    async def capture(self, transaction_id: str, step: str, manner: Manner = Manner.AT_ONCE) -> Done:
        """Takes what this effect authorised; done only when the money is there.

        Raises Refused where nothing was authorised, InDoubt while the processor does not answer.
        """
        command = capturing(transaction_id, step, manner)
        begun = await self._beginning.submit(command)
        if isinstance(begun, Done):
            return begun
        key = command.entry.key
        return await self._followed(key, lambda: self._capture(key, begun.payment))

    async def refund(self, transaction_id: str, step: str, manner: Manner = Manner.AT_ONCE) -> Done:
        """Takes back what this effect did: refunds a charge, gives an authorisation up.

        A charge whose outcome is unknown is cleared up first. It takes no deadline: what has to be taken back does not
        become unnecessary by being late.
        """
        command = taking_back(transaction_id, step, manner)
        begun = await self._beginning.submit(command)
        if isinstance(begun, Done):
            return begun
        key = command.entry.key
        return await self._followed(key, lambda: self._take_back(key, begun.payment))

    async def open_account(self, key: str, account_id: str, name: str) -> None:
        await self._beginning.submit(opening(key, account_id, name))

    async def drain(self) -> None:
        await self._running.drain()

    async def resume(self, unfinished: Unfinished, after_seconds: float, every_seconds: float) -> None:
        """Carries on, again and again, what a dead process left behind; until cancelled."""
        while True:
            try:
                await self.resume_once(unfinished, after_seconds)
            except (Unavailable, InDoubt) as error:
                log.warning("unfinished payments wait", extra={"error": error.message})
            await self._clock.sleep(every_seconds)

    async def resume_once(self, unfinished: Unfinished, after_seconds: float) -> None:
        """Carries on every payment unfinished for so long, whether or not anybody asks for it again."""
        before = self._clock.now() - timedelta(seconds=after_seconds)
        page = await unfinished.unfinished(before, None, RESUME_ROWS_MAX)
        while page:
            async with asyncio.TaskGroup() as group:
                for payment in page:
                    group.create_task(self.carry_on(payment))
            page = await unfinished.unfinished(before, page[-1], RESUME_ROWS_MAX)

    async def carry_on(self, payment: Payment) -> None:
        """Goes on with a payment from where it is; what came of it is written down, and nobody waits for it here."""
        key = Key(payment.transaction_id, payment.step, _heading(payment))
        try:
            await self._running.run(key, lambda: self._go_on(key, payment))
        except Refused:
            log.info("payment declined", extra={"payment_id": payment.payment_id})
        except DockyardError as error:
            log.warning("payment still in doubt", extra={"payment_id": payment.payment_id, "error": error.message})
        except Exception:  # the outermost loop of work nobody waits for: one broken payment does not keep the others
            log.exception("payment cannot be carried on", extra={"payment_id": payment.payment_id})

    async def _go_on(self, key: Key, payment: Payment) -> Done:
        match key.operation:
            case Operation.DO:
                return await self._charge(key, payment)
            case Operation.CONFIRM:
                return await self._capture(key, payment)
            case Operation.UNDO:
                return await self._take_back(key, payment)

    async def _followed(self, key: Key, work: Callable[[], Awaitable[Done]]) -> Done:
        """The outcome of work that was begun, and will be carried on: "nothing happened" would not stay true."""
        try:
            return await self._running.run(key, work)
        except Unavailable as error:
            raise InDoubt(error.message, code=error.code, retry_after_seconds=error.retry_after_seconds) from error

    async def _charge(self, key: Key, payment: Payment, seconds_max: float = ROUND_SECONDS_MAX) -> Done:
        holding = payment.status is Status.AUTHORISING
        ask = self._processor.authorise if holding else self._processor.charge
        name = names.AUTHORISE_CARD if holding else names.CHARGE_CARD
        with span(name, attributes={names.TRANSACTION_ID: payment.transaction_id}):
            verdict = await self._ask(lambda: ask(payment), seconds_max)
        return await self._settling.submit(SettleCharge(key, verdict))

    async def _capture(self, key: Key, payment: Payment) -> Done:
        if payment.status in {Status.CHARGING, Status.AUTHORISING}:
            await self._clear_up(payment)
            begun = await self._beginning.submit(capturing(key.transaction_id, key.step))
            return begun if isinstance(begun, Done) else await self._capture(key, begun.payment)
        with span(names.CAPTURE_CARD, attributes={names.TRANSACTION_ID: payment.transaction_id}):
            await self._ask(lambda: self._processor.capture(payment), ROUND_SECONDS_MAX)
        return await self._settling.submit(SettleCapture(key))

    async def _take_back(self, key: Key, payment: Payment) -> Done:
        if payment.status in {Status.CHARGING, Status.CAPTURING}:
            await self._clear_up(payment)
            begun = await self._beginning.submit(taking_back(key.transaction_id, key.step))
            return begun if isinstance(begun, Done) else await self._take_back(key, begun.payment)
        voiding = payment.status is Status.VOIDING
        ask = self._processor.void if voiding else self._processor.refund
        name = names.VOID_CARD if voiding else names.REFUND_CARD
        with span(name, attributes={names.TRANSACTION_ID: payment.transaction_id}):
            await self._ask(lambda: ask(payment), ROUND_SECONDS_MAX)
        return await self._settling.submit(SettleVoid(key) if voiding else SettleRefund(key))

    async def _clear_up(self, payment: Payment) -> None:
        """An answer may still be on its way: only asking again under its own key tells what happened."""
        before = Operation.CONFIRM if payment.status is Status.CAPTURING else Operation.DO
        key = Key(payment.transaction_id, payment.step, before)
        # Declined is fine: then the second look finds nothing to take or to give back.
        with suppress(Refused):
            await self._running.run(key, lambda: self._go_on(key, payment))

    async def _ask(self, work: Callable[[], Awaitable[R]], seconds_max: float) -> R:
        failpoint(CALL_BEFORE)
        answer = await retrying(
            lambda: self._breaker.call(work),
            idempotent=True,
            attempts_max=ATTEMPTS_MAX,
            seconds_max=seconds_max,
            clock=self._clock,
        )
        failpoint(CALL_AFTER)
        return answer

    def _seconds_left(self, deadline: Deadline | None) -> float:
        """How long a round may take. Raises Unavailable when nobody waits for it any more."""
        if deadline is None:
            return ROUND_SECONDS_MAX
        seconds = deadline.remaining_seconds(self._clock.unix_ms())
        if seconds <= 0:
            raise Unavailable("the deadline passed before anything was done", code="deadline-passed")
        return min(seconds, ROUND_SECONDS_MAX)


def _heading(payment: Payment) -> Operation:
    """Which of the effects on it an unfinished payment is in the middle of."""
    if payment.refund_wanted or payment.status in {Status.REFUNDING, Status.VOIDING}:
        return Operation.UNDO
    return Operation.CONFIRM if payment.status is Status.CAPTURING else Operation.DO
