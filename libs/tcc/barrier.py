"""The participant barrier: every do, undo and confirm takes effect at most once, and an undo that comes first wins.

One row for each (transaction, step, operation), inserted, never checked and then inserted, in the same transaction as
the effect; the row keeps the answer, so a repeat replays it. An undo inserts the do's row as well: if that succeeds
the do never ran (empty compensation) and can never run later (suspension). A confirm makes final what a do only held
or prepared; it has a row of its own, and what it finds of the do is for its service to look up. The idea is the
sub-transaction barrier of DTM and Seata; the stored answer is Stripe's idempotency key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Operation(StrEnum):
    DO = "do"
    UNDO = "undo"
    CONFIRM = "confirm"


class Manner(StrEnum):
    """How an effect is had; kept with its row, for whoever tells later what happened."""

    AT_ONCE = "at-once"
    HOLD = "hold"
    PREPARE = "prepare"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The identity of one effect, whoever asks for it and however often."""

    transaction_id: str
    step: str
    operation: Operation


@dataclass(frozen=True, slots=True)
class Entry:
    """A request to have the effect; the fingerprint tells a repeat from another request under the same key.

    An `answer` that is known beforehand is kept with the claim and need not be given later.
    """

    key: Key
    fingerprint: bytes
    answer: bytes | None = None
    manner: Manner = Manner.AT_ONCE


@dataclass(frozen=True, slots=True)
class First:
    """Nobody had this effect yet: have it now. For an undo, `do_answer` is what the do answered."""

    do_answer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """Done before: answer this again."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Claimed by an earlier transaction that committed without an answer: carry that work on.

    For an undo, `do_answer` is what the do answered, if it did.
    """

    do_answer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Suspended:
    """A do whose undo came first: it must not run any more."""


@dataclass(frozen=True, slots=True)
class Empty:
    """An undo whose do never ran, and now never will: there is nothing to undo."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key belongs to a different request."""


Claim = First | Replay | Unfinished | Suspended | Empty | Mismatch


@dataclass(frozen=True, slots=True)
class Row:
    """What the table holds of one effect."""

    fingerprint: bytes
    answer: bytes | None
    inserted_by: Operation


class Barrier(Protocol):
    """Claims and answers inside the caller's transaction.

    A batch holds at most one entry for each (transaction, step): a do, its confirm and its undo never share a batch.
    """

    async def claim(self, entries: Sequence[Entry]) -> Sequence[Claim]:
        """One claim for each entry, in order."""
        ...

    async def answer(self, answers: Sequence[tuple[Key, bytes]]) -> None:
        """Keeps the answers of effects claimed in this or an earlier transaction."""
        ...


def do_key(key: Key) -> Key:
    """The do that belongs to an undo."""
    return Key(key.transaction_id, key.step, Operation.DO)


def read_claim(entry: Entry, inserted: bool, do_inserted: bool, own: Row | None, do: Row | None) -> Claim:
    """What the rows say: whether this transaction inserted them, and what stood there before."""
    if entry.key.operation is Operation.UNDO:
        return _read_undo(entry, inserted, do_inserted, own, do)
    return _read_do(entry, inserted, own)


def _read_do(entry: Entry, inserted: bool, own: Row | None) -> Claim:
    if inserted:
        return First()
    assert own is not None, f"{entry.key} is neither new nor there"
    if own.inserted_by is Operation.UNDO:
        return Suspended()
    if own.fingerprint != entry.fingerprint:
        return Mismatch()
    return Unfinished() if own.answer is None else Replay(own.answer)


def _read_undo(entry: Entry, inserted: bool, do_inserted: bool, own: Row | None, do: Row | None) -> Claim:
    if inserted:
        if do_inserted:
            return Empty()
        assert do is not None, f"the do of {entry.key} is neither new nor there"
        return First(do.answer) if do.answer is not None else Unfinished(None)
    assert own is not None, f"{entry.key} is neither new nor there"
    if own.fingerprint != entry.fingerprint:
        return Mismatch()
    if own.answer is not None:
        return Replay(own.answer)
    assert do is not None, f"{entry.key} has no do"
    return Empty() if do.inserted_by is Operation.UNDO else Unfinished(do.answer)


def check_batch(entries: Sequence[Entry]) -> None:
    """A batch with two entries of one step is a bug: the batcher's key keeps them apart."""
    steps = {(entry.key.transaction_id, entry.key.step) for entry in entries}
    assert len(steps) == len(entries), "a do and its undo, or two repeats, share a batch"
