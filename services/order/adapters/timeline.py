"""What happened to an order: its own events and its coordinators' logs, in one line of time."""

from sqlalchemy import text

from libs.runtime.database import Database
from libs.saga import timeline
from libs.saga.log import Remembered, SagaLog
from services.order.adapters.queries import OrderQueries
from services.order.reading import Timeline, TimelineEntry
from services.order.saga import SAGAS

# The saga that fulfils an order and those that were asked to take it back, oldest first.
SAGAS_OF_ORDER = text(
    """
    SELECT saga_id FROM sagas
     WHERE saga_id = :order_id OR (saga_id > :order_id || '/cancel/' AND saga_id < :order_id || '/cancel0')
     ORDER BY started_at
    """
)


class SagaTimelines:
    """Reads one order's story. Raises NotFound."""

    def __init__(self, database: Database, saga_log: SagaLog, queries: OrderQueries) -> None:
        self._database = database
        self._log = saga_log
        self._queries = queries

    async def of(self, order_id: str) -> Timeline:
        events = await self._queries.events(order_id)
        sagas = await self._sagas(order_id)
        entries = [TimelineEntry(event.recorded_at, "order", event.type, "", 0, "") for event in events]
        entries += [entry for saga in sagas for entry in _entries(saga)]
        entries.sort(key=lambda entry: entry.at)
        if not sagas:
            return Timeline(order_id, "completed", "", tuple(entries))
        newest = sagas[-1]
        waits_for = timeline.waits_for(SAGAS[newest.instance.saga], newest.lines)
        return Timeline(order_id, timeline.state_of(newest.lines), waits_for, tuple(entries))

    async def _sagas(self, order_id: str) -> list[Remembered]:
        async with self._database.read() as connection:
            ids = list((await connection.execute(SAGAS_OF_ORDER, {"order_id": order_id})).scalars())
        found = await self._log.load(ids)
        return [found[saga_id] for saga_id in ids]


def _entries(saga: Remembered) -> list[TimelineEntry]:
    services = _services(saga)
    return [
        TimelineEntry(
            moment.at, services.get(moment.step, "order"), moment.what, moment.step, moment.attempt, moment.detail
        )
        for moment in timeline.moments(saga.lines)
    ]


def _services(saga: Remembered) -> dict[str, str]:
    """Which service each step is about: the definition says it, given the saga's own input."""
    steps = SAGAS[saga.instance.saga].steps
    return {step.name: step.do(saga.instance.input, {}).participant for step in steps}
