"""A participant as its barrier and its record make it: the claim, what a kept answer says, and what confirming and
cancelling make of a record are those that run in production.

One command is one transaction, so a participant that dies in it has done either everything or nothing: the same as an
answer, or a command, that was lost. What can be left in between is a state of its own here: a claim without an answer,
because its participant asks a processor outside before it settles; a transaction that is prepared; one that was
committed or rolled back by a participant that died before its barrier said so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import msgspec

from libs.kernel.errors import DockyardError, Refused
from libs.tcc.answers import Answer, is_kept, refusal, settled
from libs.tcc.barrier import Claim, Entry, First, Key, Manner, Operation, Row, do_key, read_claim
from services.shipping.domain import Status, cancelled, confirmed
from services.shipping.handlers import BEGINNINGS

DONE, REFUSED, NO_ANSWER = "done", "refused", "no answer"
CHARGED, DECLINED, REFUNDED = "charged", "declined", "refunded"
LIVE = frozenset({Status.HELD, Status.BOOKED, Status.RELEASED})
KEYS = {operation: Key("t1", "effect", operation) for operation in Operation}
FINGERPRINT = b""

_read = msgspec.json.Decoder(Answer[bool]).decode
YES: Answer[bool] = Answer(done=True)
NO: Answer[bool] = refusal(Refused("not today"))


@dataclass(frozen=True, slots=True)
class Sort:
    """How a participant works, and what a planted bug leaves out of it.

    `asks_outside`: between claiming and settling it asks a processor, which does it once and answers repeats alike.
    """

    asks_outside: bool = False
    barrier: bool = True
    suspends: bool = True


class Site(NamedTuple):
    """What its database holds, how often the effect was had and taken back, what a processor knows, what is prepared.

    `prepared` is the whole site as it will be once that is committed.
    """

    do: Row | None = None
    undo: Row | None = None
    confirm: Row | None = None
    status: Status | None = None
    had: int = 0
    taken: int = 0
    processor: str = ""
    prepared: Any = None

    @property
    def is_live(self) -> bool:
        """Something is kept for the order, or its money is."""
        return self.prepared is not None or self.status in LIVE or self.processor == CHARGED

    @property
    def is_pending(self) -> bool:
        """Somebody has to say what becomes of it."""
        return self.prepared is not None or self.status is Status.HELD

    def row(self, key: Key) -> Row | None:
        row: Row | None = getattr(self, key.operation.value)
        return row

    def with_row(self, key: Key, row: Row) -> "Site":
        match key.operation:
            case Operation.DO:
                return self._replace(do=row)
            case Operation.UNDO:
                return self._replace(undo=row)
            case Operation.CONFIRM:
                return self._replace(confirm=row)


Result = tuple[Site, str]
"""What a command leaves behind, and what its sender hears."""
Worked = tuple[Site, Answer[bool] | None]
"""How far the work of a command came; no answer where it ended early."""


@cache
def deliver(site: Site, operation: Operation, manner: Manner, sort: Sort) -> tuple[Result, ...]:
    """Everything that may come of one delivery."""
    if manner is Manner.PREPARE:
        results = _prepare(site, sort) if operation is Operation.DO else _end_prepared(site, operation, sort)
    elif site.prepared is not None:
        results = [(site, NO_ANSWER)]  # its rows are locked: who wants them waits in vain
    else:
        results = _execute(site, operation, manner, sort)
    return tuple(dict.fromkeys(results))


def _prepare(site: Site, sort: Sort) -> list[Result]:
    """A yes is prepared, a no is final at once; what was said before is said again."""
    if site.prepared is not None:
        return [(site, DONE)]
    claim, _ = _claimed(site, Operation.DO, Manner.PREPARE, sort)
    results = _execute(site, Operation.DO, Manner.PREPARE, sort)
    if settled(claim, _read, YES) is not None:
        return results
    return [
        (_beneath(site, after)._replace(prepared=after), DONE) if said == DONE else (after, said)
        for after, said in results
    ]


def _beneath(before: Site, prepared: Site) -> Site:
    """What is committed while the rest is prepared: that the processor was asked, where there is one."""
    if not prepared.processor:
        return before
    assert prepared.do is not None
    return before._replace(do=replace(prepared.do, answer=None), processor=prepared.processor, had=prepared.had)


def _end_prepared(site: Site, operation: Operation, sort: Sort) -> list[Result]:
    """Ends what is prepared, then commands like everybody else."""
    if site.prepared is None:
        return _execute(site, operation, Manner.PREPARE, sort)
    ended = site.prepared if operation is Operation.CONFIRM else site._replace(prepared=None)
    return [(ended, NO_ANSWER), *_execute(ended, operation, Manner.PREPARE, sort)]


def _execute(site: Site, operation: Operation, manner: Manner, sort: Sort) -> list[Result]:
    """One ordinary command: claim, work if there is any, keep the answer."""
    claim, claimed = _claimed(site, operation, manner, sort)
    known = settled(claim, _read, YES)
    if known is not None:
        return [_answered(site, claimed, claim, operation, known)]
    worked = _asking(claimed, operation, manner) if sort.asks_outside else _at_once(claimed, operation, manner)
    return [
        (after, NO_ANSWER) if answer is None else _answered(site, after, claim, operation, answer)
        for after, answer in worked
    ]


def _claimed(site: Site, operation: Operation, manner: Manner, sort: Sort) -> tuple[Claim, Site]:
    """As a barrier claims: inserts what is not there, then reads what was."""
    entry = Entry(KEYS[operation], FINGERPRINT, manner=manner)
    if not sort.barrier:
        return First(), site
    own, do = site.row(entry.key), site.row(do_key(entry.key))
    claimed = site if own else site.with_row(entry.key, Row(FINGERPRINT, None, operation))
    if operation is Operation.UNDO and do is None and sort.suspends:
        claimed = claimed.with_row(do_key(entry.key), Row(b"", None, Operation.UNDO))
    suspended = do or Row(b"", None, Operation.UNDO)
    return read_claim(entry, own is None, do is None, own, suspended), claimed


def _answered(
    before: Site, after: Site, claim: Claim, operation: Operation, answer: Answer[bool] | DockyardError
) -> Result:
    said = DONE if isinstance(answer, Answer) and answer.done else REFUSED
    if not is_kept(claim, answer):
        return before, said
    key = KEYS[operation]
    row = after.row(key) or Row(FINGERPRINT, None, operation)
    return after.with_row(key, replace(row, answer=msgspec.json.encode(answer))), said


def _at_once(site: Site, operation: Operation, manner: Manner) -> Iterator[Worked]:
    """The work of a participant that needs nobody else."""
    match operation:
        case Operation.DO:
            yield site._replace(status=BEGINNINGS[manner], had=site.had + 1), YES
            yield site, NO
        case Operation.CONFIRM:
            yield _confirmed(site)
        case Operation.UNDO:
            yield site._replace(status=cancelled(site.status), taken=site.taken + (site.status in LIVE)), YES


def _confirmed(site: Site) -> Worked:
    try:
        return site._replace(status=confirmed(site.status)), YES
    except Refused as refused:
        return site, refusal(refused)


def _asking(site: Site, operation: Operation, manner: Manner) -> Iterator[Worked]:
    """The work of one that asks outside; it may end after the claim, and after each question."""
    yield site, None
    if operation is Operation.CONFIRM:
        yield _confirmed(site)
        return
    for asked in _asked(site):
        yield asked, None
        if operation is Operation.DO:
            yield _settled_do(asked, manner)
        else:
            yield from _taken_back(asked)


def _asked(site: Site) -> Iterator[Site]:
    """What the processor may say; what it said before it says again."""
    if site.processor:
        yield site
    else:
        yield site._replace(processor=CHARGED, had=site.had + 1)
        yield site._replace(processor=DECLINED)


def _settled_do(site: Site, manner: Manner) -> Worked:
    if site.processor == DECLINED:
        return site, NO
    return site._replace(status=BEGINNINGS[manner] if site.processor == CHARGED else Status.CANCELLED), YES


def _taken_back(site: Site) -> Iterator[Worked]:
    """Settles a do that was left open, and gives back what it took."""
    assert site.do is not None
    answer = NO if site.processor == DECLINED else YES
    known = site._replace(do=replace(site.do, answer=site.do.answer or msgspec.json.encode(answer)))
    if site.processor == DECLINED:
        yield known, YES
        return
    given = known._replace(status=Status.CANCELLED, processor=REFUNDED, taken=site.taken + (site.processor == CHARGED))
    yield known._replace(processor=REFUNDED, taken=given.taken), None
    yield given, YES
