"""What a participant did for one transaction, read from its barrier: every effect left a row there, with its time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.tcc.barrier import Manner, Operation

ROWS_MAX = 100

# The effects of one transaction in the order in which they were claimed; a do that its undo ruled out never happened.
EFFECTS = text(
    """
    SELECT step, operation, manner, created_at, answer FROM barrier
     WHERE transaction_id = :transaction_id AND NOT (operation = 'do' AND inserted_by = 'undo')
     ORDER BY created_at, step, operation LIMIT :limit
    """
)
# What is prepared cannot be seen, but that it is can.
PREPARED = text("SELECT prepared FROM pg_prepared_xacts WHERE gid = :gid AND database = current_database()")


@dataclass(frozen=True, slots=True)
class Moment:
    """`what` in words: "stock held", "card authorised"."""

    at: datetime
    what: str
    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long something was kept from others; `until` is None while it still is."""

    what: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Trail:
    moments: Sequence[Moment]
    kept: Sequence[Keeping]


@dataclass(frozen=True, slots=True)
class Words:
    """How a service speaks of an effect, by operation and manner; and of what it keeps from others meanwhile."""

    effects: Mapping[tuple[Operation, Manner], str]
    kept: Mapping[Manner, str]


class _Answer(msgspec.Struct):
    """As much of a kept answer as is told."""

    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Effect:
    step: str
    operation: Operation
    manner: Manner
    at: datetime
    refused: _Answer | None


async def read_trail(
    connection: AsyncConnection, transaction_id: str, words: Mapping[str, Words], gid: str = ""
) -> Trail:
    """The trail of one transaction, by the words of each step; `gid` is its name while it is prepared."""
    rows = await connection.execute(EFFECTS, {"transaction_id": transaction_id, "limit": ROWS_MAX})
    effects = [_effect(*row) for row in rows if row[0] in words]
    moments = [_moment(effect, words[effect.step]) for effect in effects]
    kept = [keeping for effect in effects if (keeping := _keeping(effect, effects, words[effect.step]))]
    prepared = await connection.scalar(PREPARED, {"gid": gid}) if gid else None
    if prepared is not None:
        step, spoken = next(iter(words.items()))
        moments.append(Moment(prepared, spoken.effects[Operation.DO, Manner.PREPARE], step))
        kept.append(Keeping(spoken.kept[Manner.PREPARE], prepared, None))
    return Trail(sorted(moments, key=lambda moment: moment.at), kept)


def _effect(step: str, operation: str, manner: str, at: datetime, answer: bytes | None) -> _Effect:
    kept = msgspec.json.decode(answer, type=_Answer) if answer else _Answer()
    return _Effect(step, Operation(operation), Manner(manner), at, kept if kept.code else None)


def _moment(effect: _Effect, words: Words) -> Moment:
    what = words.effects.get((effect.operation, effect.manner)) or words.effects[effect.operation, Manner.AT_ONCE]
    if effect.refused is not None:
        return Moment(effect.at, f"{what}: refused {effect.refused.code}", effect.step, effect.refused.message)
    return Moment(effect.at, what, effect.step)


def _keeping(effect: _Effect, effects: Sequence[_Effect], words: Words) -> Keeping | None:
    """From the do until whatever ended it came."""
    if effect.operation is not Operation.DO or effect.manner is Manner.AT_ONCE or effect.refused is not None:
        return None
    ends = [one.at for one in effects if one.step == effect.step and one.operation is not Operation.DO]
    return Keeping(words.kept[effect.manner], effect.at, min(ends, default=None))
