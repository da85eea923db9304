"""The outbox: what happened, written down in the transaction in which it happened."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.messaging.event import OutgoingEvent
from libs.runtime.sql import binaries, instants, texts

OUTBOX_DDL = (
    """
    CREATE TABLE outbox (
        transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
        sequence bigint GENERATED ALWAYS AS IDENTITY,
        event_id text NOT NULL,
        topic text NOT NULL,
        type text NOT NULL,
        source text NOT NULL,
        subject text NOT NULL,
        time timestamptz NOT NULL,
        traceparent text NOT NULL,
        data bytea NOT NULL,
        PRIMARY KEY (transaction_id, sequence)
    )
    """,
    # How far the relay has published, and how far every consumer is known to have got.
    """
    CREATE TABLE outbox_cursor (
        source text PRIMARY KEY,
        transaction_id xid8 NOT NULL DEFAULT '0',
        sequence bigint NOT NULL DEFAULT 0,
        safe_transaction_id xid8 NOT NULL DEFAULT '0',
        safe_sequence bigint NOT NULL DEFAULT 0,
        epoch text NOT NULL DEFAULT ''
    ) WITH (fillfactor = 50)
    """,
)

# Writes the events down in the order given: that is the order in which they will be published.
ADD = text(
    """
    INSERT INTO outbox (event_id, topic, type, source, subject, time, traceparent, data)
    SELECT event_id, topic, type, source, subject, time, traceparent, data
      FROM unnest(:event_ids, :topics, :types, :sources, :subjects, :times, :traceparents, :data)
           WITH ORDINALITY AS new (event_id, topic, type, source, subject, time, traceparent, data, number)
     ORDER BY number
    """
).bindparams(
    *texts("event_ids", "topics", "types", "sources", "subjects", "traceparents"), *instants("times"), *binaries("data")
)


class Outbox:
    """Adds events to the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, events: Sequence[OutgoingEvent]) -> None:
        if events:
            await self._connection.execute(
                ADD,
                {
                    "event_ids": [event.id for event in events],
                    "topics": [event.topic for event in events],
                    "types": [event.type for event in events],
                    "sources": [event.source for event in events],
                    "subjects": [event.subject for event in events],
                    "times": [event.time for event in events],
                    "traceparents": [event.traceparent for event in events],
                    "data": [event.data for event in events],
                },
            )
