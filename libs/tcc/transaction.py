"""Try-confirm-cancel as a saga: try everything at once, decide, then confirm everything or cancel everything.

The shape is Pardon and Pautasso's ("Atomic Distributed Transactions: a RESTful Design", 2014): a try reserves, a
confirm uses what was reserved, a cancel gives it back. Its coordinator does what a saga's does, so it is one: the tries
are a group of compensatable steps, the decision is the pivot, the confirms are retriable. What is its own is on the
participants' side: a try leaves nothing that anybody sees, and a hold whose lease has ended asks (`libs.coordination`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from libs.saga.definition import Kind, MakeCommand, Retry, Saga, Step


@dataclass(frozen=True, slots=True)
class Branch:
    """One participant's part: what to hold, how to use it, how to let it go."""

    name: str
    hold: MakeCommand
    confirm: MakeCommand
    cancel: MakeCommand


def try_confirm_cancel(
    name: str, opening: Step, branches: Sequence[Branch], decision: MakeCommand, *, patience: Retry, outcome: Retry
) -> Saga:
    """The transaction over these branches; `opening` goes first and is undone last.

    A try is repeated as often as `patience` allows before everything is cancelled; confirms and cancels as often as
    `outcome` allows before an operator is asked. Raises BadSaga.
    """
    tries = [
        Step(f"hold-{one.name}", do=one.hold, undo=one.cancel, retry=patience, undo_retry=outcome, group="try")
        for one in branches
    ]
    confirms = [
        Step(f"confirm-{one.name}", do=one.confirm, kind=Kind.RETRIABLE, retry=outcome, group="confirm")
        for one in branches
    ]
    pivot = Step("decide-confirm", do=decision, kind=Kind.PIVOT, retry=outcome)
    return Saga(name, steps=(opening, *tries, pivot, *confirms))
