"""What operators do: a line of the saga's log or an event of the order, and who and why, in one transaction."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import Conflict, DockyardError, Mismatch, NotFound, Unavailable
from libs.runtime.clock import Clock, Ids
from libs.runtime.database import Database
from libs.runtime.failpoints import failpoint
from libs.saga.entries import Skipped
from libs.saga.log import UNDOING, Line, Tail
from libs.saga.postgres_log import add_lines
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import current_traceparent
from services.order import domain
from services.order.adapters.operations import OperationsReader
from services.order.adapters.units import Committed, PostgresUnit, PostgresUnits
from services.order.choreography import Stage, stage_of
from services.order.domain import CHOREOGRAPHED, Order
from services.order.operations import (
    OUTCOMES,
    REFUSED,
    Action,
    Intervened,
    Intervention,
    OrderSubject,
    SagaSubject,
    Subject,
    Verb,
    checked,
    event_of_order,
    event_of_saga,
    line_for,
)
from services.order.ports import Appended, ChoreographyTurn

# One intervention for each key; another under the same key waits here for the first.
CLAIM = text(
    """
    INSERT INTO operator_actions
           (action_id, idempotency_key, fingerprint, transaction_id, verb, step, who, why, proof, outcome, refused, at)
    VALUES (:action_id, :key, :fingerprint, :transaction_id, :verb, :step, :by, :why, :proof, '', false, :at)
    ON CONFLICT (idempotency_key) WHERE NOT refused DO NOTHING
    """
)
# What was refused, and to whom; the same request refused again for the same reason adds nothing.
KEEP_REFUSAL = text(
    """
    INSERT INTO operator_actions
           (action_id, idempotency_key, fingerprint, transaction_id, verb, step, who, why, proof, outcome, refused, at)
    VALUES (:action_id, :key, :fingerprint, :transaction_id, :verb, :step, :by, :why, :proof, :outcome, true, :at)
    ON CONFLICT (idempotency_key, fingerprint, outcome) WHERE refused DO NOTHING
    """
)
KEPT = text(
    """
    SELECT fingerprint, action_id, transaction_id, verb, step, who, why, proof, outcome, at
      FROM operator_actions WHERE idempotency_key = :key AND NOT refused
    """
)
SET_OUTCOME = text("UPDATE operator_actions SET step = :step, outcome = :outcome WHERE action_id = :action_id")
# Where a choreography is, which is locked.
STATUS = text("SELECT status FROM choreographies WHERE order_id = :order_id")

log = get_logger(__name__)


class Runner(Protocol):
    """Who runs sagas in this process; in another process the sweep finds what is to be done."""

    async def take_up(self, saga_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Done:
    """What came of it: the outcome for the record, and the step it was about."""

    outcome: str
    step: str = ""


class PostgresInterventions:
    """Carries interventions out; `units` hears of what they committed, `runner` of sagas that may go on."""

    def __init__(
        self, database: Database, reader: OperationsReader, units: PostgresUnits, runner: Runner, clock: Clock
    ) -> None:
        self._database = database
        self._reader = reader
        self._units = units
        self._runner = runner
        self._clock = clock
        self._ids = Ids(clock)

    async def intervene(self, intervention: Intervention) -> Intervened:
        """Raises Invalid, NotFound, Mismatch, Conflict; a repeat under the same key changes nothing."""
        wanted = self._action(checked(intervention))
        try:
            action = await self._intervene(intervention, wanted)
        except (Conflict, Mismatch, NotFound) as refusal:
            await self._keep_refusal(intervention, wanted, refusal)
            raise
        return Intervened(action, await self._reader.get(intervention.transaction_id))

    async def _intervene(self, intervention: Intervention, wanted: Action) -> Action:
        subject = await self._reader.subject(intervention.transaction_id)
        committed = Committed()
        async with self._database.transaction() as connection:
            kept = await _kept(connection, intervention, wanted)
            if kept is not None:
                return kept
            unit = self._units.joining(connection, committed)
            done = await _carry_out(connection, unit, intervention, subject, wanted.at)
            action = replace(wanted, step=done.step or wanted.step, outcome=done.outcome)
            await connection.execute(
                SET_OUTCOME, {"step": action.step, "outcome": action.outcome, "action_id": action.action_id}
            )
            failpoint("order.commit.before")
        failpoint("order.commit.after")
        _say("operator intervened", action)
        await self._tell(intervention, subject, committed)
        return action

    async def _keep_refusal(self, intervention: Intervention, wanted: Action, refusal: DockyardError) -> None:
        action = replace(wanted, outcome=f"{REFUSED}: {refusal.code}")
        _say("operator refused", action)
        async with self._database.transaction() as connection:
            await connection.execute(KEEP_REFUSAL, {**_row(intervention, action), "outcome": action.outcome})

    def _action(self, one: Intervention) -> Action:
        return Action(
            action_id=self._ids.new("act"),
            transaction_id=one.transaction_id,
            verb=one.verb.value,
            step=one.step,
            by=one.by,
            why=one.why,
            proof=one.proof,
            outcome="",
            at=self._clock.now(),
        )

    async def _tell(self, one: Intervention, subject: Subject, committed: Committed) -> None:
        """Everybody who acts on what was committed; who does not hear of it finds it by itself."""
        if committed.orders:
            self._units.on_commit(committed)
        if isinstance(subject, SagaSubject) and subject.state.parked is not None and one.verb is not Verb.END:
            await self._runner.take_up(one.transaction_id)


async def _carry_out(
    connection: AsyncConnection, unit: PostgresUnit, one: Intervention, subject: Subject, at: datetime
) -> _Done:
    is_choreographed = isinstance(subject, OrderSubject) and subject.style == CHOREOGRAPHED
    if is_choreographed:
        await unit.choreographies.lock([subject.order_id])
    order = (await unit.orders.load({subject.order_id})).get(subject.order_id)
    if order is None:
        raise NotFound(f"there is no order {subject.order_id}")
    if isinstance(subject, SagaSubject):
        step = await _add_line(connection, one, subject, order, at)
        event = event_of_saga(one, subject, order, at)
    else:
        step, event = "", event_of_order(one, order, subject, at)
    after = await _appended(unit, order, event) if event is not None else order
    if is_choreographed:
        await _turn(connection, unit, subject, after)
    return _Done(OUTCOMES.get(one.verb) or f"order-{after.status}", step)


async def _appended(unit: PostgresUnit, order: Order, event: domain.Change) -> Order:
    """The order after the event, written."""
    append = Appended(domain.evolve(order, event), order.version, (event,), current_traceparent())
    (position,) = await unit.orders.append([append])
    if position is None:
        raise Unavailable("the order changed meanwhile", code="version-conflict")
    return append.after


def _row(one: Intervention, action: Action) -> dict[str, object]:
    return {
        "action_id": action.action_id,
        "key": one.key,
        "fingerprint": one.fingerprint,
        "transaction_id": action.transaction_id,
        "verb": action.verb,
        "step": action.step,
        "by": action.by,
        "why": action.why,
        "proof": action.proof,
        "at": action.at,
    }


def _say(what: str, action: Action) -> None:
    extra = {"transaction_id": action.transaction_id, "verb": action.verb, "step": action.step, "by": action.by}
    log.warning(what, extra={**extra, "why": action.why, "outcome": action.outcome})


async def _kept(connection: AsyncConnection, one: Intervention, wanted: Action) -> Action | None:
    """What an earlier request under this key did; None when this is the first. Raises Mismatch."""
    claimed = await connection.execute(CLAIM, _row(one, wanted))
    if claimed.rowcount:
        return None
    fingerprint, *kept = (await connection.execute(KEPT, {"key": one.key})).one()
    if fingerprint != one.fingerprint:
        raise Mismatch("this Idempotency-Key was used with a different request; use a new key")
    return Action(*kept)


async def _add_line(
    connection: AsyncConnection, one: Intervention, subject: SagaSubject, order: Order, at: datetime
) -> str:
    """Writes what the intervention is to the saga's log, if anything; the step it skips."""
    entry = line_for(one, subject, order)
    if entry is None:
        return ""
    remembered = subject.remembered
    tail = Tail(remembered.instance.saga_id, [Line(remembered.lines[-1].seq + 1, at, entry)])
    if await add_lines(connection, [tail]):
        raise _overtaken()
    return entry.step if isinstance(entry, Skipped) else ""


async def _turn(connection: AsyncConnection, unit: PostgresUnit, subject: Subject, after: Order) -> None:
    """Notes where the choreography is now, with a new deadline, if it is still where the operator saw it."""
    assert isinstance(subject, OrderSubject), "a saga has a coordinator"
    seen = Stage.WITHDRAWN if subject.status == UNDOING else subject.status
    if await connection.scalar(STATUS, {"order_id": subject.order_id}) != seen:
        raise _overtaken()
    stage = stage_of(after)
    event = "CheckoutWithdrawn" if stage is Stage.WITHDRAWN else ""
    await unit.choreographies.turn([ChoreographyTurn(after.order_id, stage, event)])


def _overtaken() -> Conflict:
    return Conflict("somebody else went on with it meanwhile: look again", code="overtaken")
