"""Two-phase commit as a saga: prepare one after another, decide, then commit everywhere.

A coordinator of two-phase commit and one of a saga do the same work: ask in turn, write the decision down before
anybody hears of it, and repeat it until everybody has. They differ in what they ask for. So this is a definition, and
what runs it, recovers it, times it out and parks it is the saga's executor: `PivotDecided` and the pivot's own commit
are the decision log, and what is missing there is presumed aborted.

The prepares run in one order everywhere and never side by side: each keeps its locks until the decision, and two
transactions that lock the same two databases in different orders would wait for each other where no database sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from libs.saga.definition import Kind, MakeCommand, Retry, Saga, Step


@dataclass(frozen=True, slots=True)
class Resource:
    """One database of the transaction, and the commands that prepare, commit and roll back there."""

    name: str
    prepare: MakeCommand
    commit: MakeCommand
    roll_back: MakeCommand


# Each keeps locks for as long as it runs: beyond what the databases can work on at once, more of them only wait for
# each other, and whoever waits for a lock keeps others (the thrashing of Gray and Reuter, "Transaction Processing",
# 1993). Those behind wait with nothing locked.
AT_ONCE_MAX = 12


def two_phase(
    name: str, opening: Step, resources: Sequence[Resource], decision: MakeCommand, *, vote: Retry, outcome: Retry
) -> Saga:
    """The transaction over these resources, locked in this order; `opening` goes first and is undone last.

    A prepare is tried as often as `vote` allows before the answer is taken to be no; the outcome is repeated as often
    as `outcome` allows before an operator is asked. `AT_ONCE_MAX` run at once. Raises BadSaga.
    """
    prepares = [
        Step(f"prepare-{one.name}", do=one.prepare, undo=one.roll_back, retry=vote, undo_retry=outcome)
        for one in resources
    ]
    commits = [
        Step(f"commit-{one.name}", do=one.commit, kind=Kind.RETRIABLE, retry=outcome, group="commit")
        for one in resources
    ]
    pivot = Step("decide-commit", do=decision, kind=Kind.PIVOT, retry=outcome)
    return Saga(name, steps=(opening, *prepares, pivot, *commits), at_once_max=AT_ONCE_MAX)
