"""Operators' view of transactions: sagas by their logs, choreographies by what was heard, naive ones by silence."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import NotFound
from libs.runtime.clock import Clock
from libs.runtime.database import Database
from libs.saga.definition import Saga
from libs.saga.log import ENDED, PARKED, RUNNING, UNDOING, Remembered, SagaLog
from libs.saga.machine import Phase, State, fold
from services.order.adapters.queries import OrderQueries
from services.order.domain import CHOREOGRAPHED, NAIVE, Order
from services.order.operations import (
    Action,
    ActionPage,
    OrderSubject,
    SagaSubject,
    Subject,
    Transaction,
    TransactionPage,
    checked_id,
    checked_state,
)
from services.order.saga import CANCELLATION, CHECKOUTS

# A checkout that nobody coordinates is taken for abandoned when nothing happened to it for so long: an operator may end
# it then. A naive one is over, one way or the other, within its calls' deadlines.
UNMOVED_SECONDS = 60.0
# Sorts after every action id.
NEWEST = "act_~"
CANCELLATION_STYLE = "cancellation"
STYLES = {**{saga.name: style for style, saga in CHECKOUTS.items()}, CANCELLATION.name: CANCELLATION_STYLE}

# Transactions of every style that have not ended, oldest first; each source gives no more than a page of its own.
PAGE = text(
    """
    SELECT * FROM (
        (SELECT saga_id AS id, 'saga' AS source, status, parked_reason AS reason, started_at, updated_at AS since,
                '' AS heard
           FROM sagas WHERE status = 'running' AND :state IN ('', 'running') AND saga_id > :after
          ORDER BY saga_id LIMIT :limit)
        UNION ALL
        (SELECT saga_id, 'saga', status, parked_reason, started_at, updated_at, ''
           FROM sagas WHERE status = 'undoing' AND :state IN ('', 'undoing') AND saga_id > :after
          ORDER BY saga_id LIMIT :limit)
        UNION ALL
        (SELECT saga_id, 'saga', status, parked_reason, started_at, updated_at, ''
           FROM sagas WHERE status = 'parked' AND :state IN ('', 'parked') AND saga_id > :after
          ORDER BY saga_id LIMIT :limit)
        UNION ALL
        (SELECT order_id, 'choreographed', status, parked_reason, started_at, moved_at, last_event
           FROM choreographies
          WHERE status <> 'ended' AND order_id > :after
            AND :state IN ('', CASE status WHEN 'withdrawn' THEN 'undoing' ELSE status END)
          ORDER BY order_id LIMIT :limit)
        UNION ALL
        (SELECT order_id, 'naive', 'pending', '', placed_at, updated_at, ''
           FROM order_view
          WHERE coordination = 'naive' AND status = 'pending' AND order_id > :after
            AND :state IN ('', CASE WHEN updated_at < :unmoved THEN 'parked' ELSE 'running' END)
          ORDER BY order_id LIMIT :limit)
    ) AS every ORDER BY id LIMIT :limit
    """
)
CHOREOGRAPHY = text(
    """
    SELECT order_id AS id, status, parked_reason AS reason, started_at, moved_at AS since, last_event AS heard
      FROM choreographies WHERE order_id = :order_id
    """
)
ACTIONS = text(
    """
    SELECT action_id, transaction_id, verb, step, who, why, proof, outcome, at FROM operator_actions
     WHERE action_id < :before ORDER BY action_id DESC LIMIT :limit
    """
)
ACTIONS_OF = text(
    """
    SELECT action_id, transaction_id, verb, step, who, why, proof, outcome, at FROM operator_actions
     WHERE transaction_id = :transaction_id AND action_id < :before ORDER BY action_id DESC LIMIT :limit
    """
)


class OperationsReader:
    """Reads transactions and what operators did to them. `sagas` are the definitions by name."""

    def __init__(
        self,
        database: Database,
        sagas: Mapping[str, Saga],
        saga_log: SagaLog,
        queries: OrderQueries,
        clock: Clock,
        *,
        unmoved_seconds: float = UNMOVED_SECONDS,
    ) -> None:
        self._database = database
        self._sagas = sagas
        self._log = saga_log
        self._queries = queries
        self._clock = clock
        self._unmoved = timedelta(seconds=unmoved_seconds)

    async def page(self, state: str, limit: int, after: str) -> TransactionPage:
        """Transactions that have not ended, oldest first. Raises Invalid."""
        values = {"state": checked_state(state), "after": after and checked_id(after), "limit": limit + 1}
        async with self._database.read() as connection:
            rows = (await connection.execute(PAGE, {**values, "unmoved": self._clock.now() - self._unmoved})).all()
        shown = rows[:limit]
        logs = await self._log.load([row.id for row in shown if row.source == "saga"])
        transactions = [self._seen(self._listed(row, logs)) for row in shown]
        return TransactionPage(transactions, shown[-1].id if len(rows) > limit else "")

    async def get(self, transaction_id: str) -> Transaction:
        """One transaction, ended or not. Raises NotFound, Invalid."""
        return self._seen(await self.subject(checked_id(transaction_id)))

    async def actions(self, transaction_id: str, limit: int, before: str) -> ActionPage:
        """What operators did, newest first."""
        values = {"before": checked_id(before or NEWEST), "limit": limit + 1}
        async with self._database.read() as connection:
            rows = await (
                connection.execute(ACTIONS_OF, {**values, "transaction_id": checked_id(transaction_id)})
                if transaction_id
                else connection.execute(ACTIONS, values)
            )
            found = [Action(*row) for row in rows]
        return ActionPage(found[:limit], found[limit - 1].action_id if len(found) > limit else "")

    async def subject(self, transaction_id: str) -> Subject:
        """What the transaction is, and where it is. Raises NotFound."""
        found = (await self._log.load([transaction_id])).get(transaction_id)
        if found is not None:
            return self._saga(found)
        order = await self._queries.fold(transaction_id)
        if order is None:
            raise NotFound(f"there is no transaction {transaction_id}")
        if order.coordination == CHOREOGRAPHED and not order.decided:
            async with self._database.read() as connection:
                row = await _choreography(connection, transaction_id)
            if row is not None:
                return self._heard(row)
        return self._unheard(order)

    def _listed(self, row: Row[Any], logs: Mapping[str, Remembered]) -> Subject:
        match row.source:
            case "saga":
                return self._saga(logs[row.id])
            case "choreographed":
                return self._heard(row)
            case _:
                return self._naive(row.id, row.started_at, row.since)

    def _saga(self, remembered: Remembered) -> SagaSubject:
        saga = self._sagas[remembered.instance.saga]
        return SagaSubject(saga, remembered, fold(line.entry for line in remembered.lines))

    def _unheard(self, order: Order) -> OrderSubject:
        """A checkout that nothing but its order tells of."""
        if order.coordination == NAIVE and not order.decided:
            return self._naive(order.order_id, order.placed_at, order.updated_at)
        status = ENDED if order.decided else RUNNING
        reason = f"{order.status}: {order.reason}" if order.reason else str(order.status)
        return OrderSubject(
            order.order_id, order.coordination, status, reason, "", order.placed_at, order.updated_at, False
        )

    def _naive(self, order_id: str, started_at: datetime, moved_at: datetime) -> OrderSubject:
        if self._is_long_ago(moved_at):
            reason = "its calls ended without a decision: nobody goes on with it"
            return OrderSubject(order_id, NAIVE, PARKED, reason, "an operator", started_at, moved_at, True)
        return OrderSubject(order_id, NAIVE, RUNNING, "", "its calls", started_at, moved_at, False)

    def _heard(self, row: Row[Any]) -> OrderSubject:
        status = UNDOING if row.status == "withdrawn" else row.status
        heard = f"what follows {row.heard}" if row.heard else "its first reaction"
        waits_for = (
            f"{'an operator' if status == PARKED else heard} since {row.since.isoformat(timespec='milliseconds')}"
        )
        is_abandoned = status == PARKED or self._is_long_ago(row.since)
        return OrderSubject(
            row.id, CHOREOGRAPHED, status, row.reason, waits_for, row.started_at, row.since, is_abandoned
        )

    def _is_long_ago(self, moved_at: datetime) -> bool:
        return moved_at < self._clock.now() - self._unmoved

    def _seen(self, subject: Subject) -> Transaction:
        if isinstance(subject, OrderSubject):
            return Transaction(
                transaction_id=subject.order_id,
                order_id=subject.order_id,
                style=subject.style,
                status=subject.status,
                phase=subject.status,
                reason=subject.reason,
                waits_for=subject.waits_for,
                started_at=subject.started_at,
                since=subject.moved_at,
                age_seconds=self._age(subject.moved_at),
            )
        instance, state = subject.remembered.instance, subject.state
        lines = subject.remembered.lines
        since = lines[-1].at if lines else instance.started_at
        return Transaction(
            transaction_id=instance.saga_id,
            order_id=subject.order_id,
            style=STYLES[instance.saga],
            status=_status(state),
            phase=str(state.phase),
            reason=state.outcome or state.parked or "",
            waits_for=subject.waits_for,
            started_at=instance.started_at,
            since=since,
            age_seconds=self._age(since),
            skippable=subject.provable,
        )

    def _age(self, since: datetime) -> float:
        return max((self._clock.now() - since).total_seconds(), 0.0)


def _status(state: State) -> str:
    if state.phase is Phase.ENDED:
        return ENDED
    if state.parked is not None:
        return PARKED
    return UNDOING if state.phase is Phase.UNDOING else RUNNING


async def _choreography(connection: AsyncConnection, order_id: str) -> Row[Any] | None:
    return (await connection.execute(CHOREOGRAPHY, {"order_id": order_id})).one_or_none()
