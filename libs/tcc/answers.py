"""What a participant keeps of a command, and what a claim says without any work: the same in every service."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from libs.kernel.errors import DockyardError, Mismatch, Refused
from libs.tcc.barrier import Claim, Empty, First, Replay, Suspended, Unfinished
from libs.tcc.barrier import Mismatch as OtherRequest

D = TypeVar("D")


class Answer(msgspec.Struct, Generic[D], frozen=True):
    """What was done, or why it was refused."""

    done: D | None = None
    code: str = ""
    message: str = ""
    details: dict[str, str] = {}


def refusal(error: Refused) -> Answer[Any]:
    """A refusal as the barrier keeps it."""
    return Answer(None, error.code, error.message, dict(error.details))


def outcome(answer: Answer[D] | DockyardError) -> D | DockyardError:
    """An answer as its caller hears of it."""
    if isinstance(answer, DockyardError):
        return answer
    return answer.done if answer.done is not None else Refused(answer.message, code=answer.code, details=answer.details)


def is_kept(claim: Claim, answer: object) -> bool:
    """Whether this answer belongs into the barrier: it is one, and it is new."""
    return isinstance(claim, First | Empty | Unfinished) and isinstance(answer, Answer)


def settled(claim: Claim, read: Callable[[bytes], Answer[D]], nothing: Answer[D]) -> Answer[D] | DockyardError | None:
    """The answer that needs no work; None where there is work to do. `nothing` answers an undo with nothing to undo."""
    match claim:
        case Replay(answer=kept):
            return read(kept)
        case Suspended():
            return Refused("it was undone before it was done", code="undone-before-done")
        case Empty():
            return nothing
        case OtherRequest():
            return Mismatch("this key was used with a different request; use a new key")
        case First(do_answer=kept) if kept is not None and read(kept).done is None:
            return nothing  # the do was refused: there is nothing to undo
        case First() | Unfinished():
            return None
