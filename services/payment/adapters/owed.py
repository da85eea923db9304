"""Events that are owed: what an effect calls for was asked of the card processor, and is said once that has ended.

Inbox and debt are one transaction, the end of the payment and the event are another: between them nothing is lost.
"""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.choreography.events import MESSAGES, Reaction, outgoing, said
from libs.kernel.errors import Refused
from libs.messaging.event import OutgoingEvent
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Clock, Ids
from libs.runtime.sql import binaries, texts
from libs.tcc.barrier import Key, Operation
from services.payment.choreography import PART

SOURCE = "/services/payment"

# One debt for each effect: who asks again before it has ended gets the one answer.
OWE = text(
    """
    INSERT INTO owed_events (transaction_id, step, operation, cause, data, traceparent)
    SELECT * FROM unnest(:transaction_ids, :steps, :operations, :causes, :data, :traceparents)
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
    """
).bindparams(*texts("transaction_ids", "steps", "operations", "causes", "traceparents"), *binaries("data"))
PAY = text(
    """
    DELETE FROM owed_events
     USING unnest(:transaction_ids, :steps, :operations) AS ended (transaction_id, step, operation)
     WHERE (owed_events.transaction_id, owed_events.step, owed_events.operation)
         = (ended.transaction_id, ended.step, ended.operation)
    RETURNING ended.transaction_id, ended.step, ended.operation, cause, data, traceparent
    """
).bindparams(*texts("transaction_ids", "steps", "operations"))


class RefundRefused(Exception):
    """A checkout goes back whose charge is none: this transaction did something else under its key."""


class OwedEvents:
    """Owes and says, on the caller's connection, inside the caller's transaction; `said` once anything was."""

    def __init__(self, connection: AsyncConnection, clock: Clock, ids: Ids) -> None:
        self._connection = connection
        self._clock = clock
        self._ids = ids
        self.said = False

    async def owe(self, owed: Sequence[tuple[Key, Reaction]]) -> None:
        """Remembers what is to be said of each effect when it has ended."""
        if owed:
            await self._connection.execute(
                OWE,
                {
                    **_columns([key for key, _ in owed]),
                    "causes": [reaction.rule.on for _, reaction in owed],
                    "data": [reaction.event.SerializeToString() for _, reaction in owed],
                    "traceparents": [reaction.traceparent for _, reaction in owed],
                },
            )

    async def say(self, answered: Sequence[tuple[Key, str | Refused]]) -> None:
        if not answered:
            return
        outcomes = dict(answered)
        rows = await self._connection.execute(PAY, _columns(list(outcomes)))
        await self.announce(
            [
                (_reaction(transaction_id, cause, data, traceparent), outcomes[_key(transaction_id, step, operation)])
                for transaction_id, step, operation, cause, data, traceparent in rows
            ]
        )

    async def announce(self, outcomes: Sequence[tuple[Reaction, str | Refused]]) -> None:
        """Says what came of each event: a payment's id, or a refusal. Raises RefundRefused."""
        events = [event for reaction, one in outcomes if (event := self._event(reaction, one)) is not None]
        await Outbox(self._connection).add(events)
        self.said = self.said or bool(events)

    def _event(self, reaction: Reaction, outcome: str | Refused) -> OutgoingEvent | None:
        if isinstance(outcome, Refused) and not reaction.rule.refused:
            raise RefundRefused(f"{reaction.order_id}: {reaction.rule.effect} was refused: {outcome.message}")
        at = self._clock.now()
        fields = {} if isinstance(outcome, Refused) else {"payment_id": outcome}
        message = said(reaction, outcome, at, **fields)
        return outgoing(message, SOURCE, at, reaction.traceparent, self._ids.new) if message is not None else None


def _reaction(order_id: str, cause: str, data: bytes, traceparent: str) -> Reaction:
    return Reaction(PART.on(cause), MESSAGES[cause].FromString(data), order_id, traceparent)


def _key(transaction_id: str, step: str, operation: str) -> Key:
    return Key(transaction_id, step, Operation(operation))


def _columns(keys: Sequence[Key]) -> dict[str, list[str]]:
    return {
        "transaction_ids": [key.transaction_id for key in keys],
        "steps": [key.step for key in keys],
        "operations": [key.operation.value for key in keys],
    }
