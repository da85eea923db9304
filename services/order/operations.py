"""What operators see of transactions that have not ended, what they may do with them, and what that leads to.

No verb has an effect of its own: retry asks again under the same keys, skip and end send nothing, and compensate only
makes sure that the order cannot be confirmed any more. So none of them can make anything happen twice.

None can leave money without goods or goods without money either, as far as proofs are true. Skip takes the word of a
proof for what another service did, never for what this one knows by itself: the pivot and the order's own steps. End
is refused while anything may still be owed elsewhere; what it says is owed can be retried, or proven with skip. A
checkout without a coordinator has no record of what is owed, so there end needs the proof that nothing is.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from libs.kernel.errors import Conflict, Invalid
from libs.saga import timeline
from libs.saga.definition import Kind, Saga, Step
from libs.saga.entries import EndForced, Resumed, Skipped
from libs.saga.log import ENDED, PARKED, Remembered
from libs.saga.machine import Phase, State, skippable
from services.order import domain
from services.order.domain import CHOREOGRAPHED, Order, Status
from services.order.saga import CANCELLATION

COMPENSATED = "compensated-by-operator"
FORCED_END = "forced-end"
REFUSED = "refused"
# The participant whose records are here: nobody has to prove what it did.
OWN = "order"
ID_LETTERS_MAX = 128
NAME_LETTERS_MAX = 100
WORDS_LETTERS_MAX = 1000
# What a listing may be narrowed to; "" is everything that has not ended.
STATES = ("", "running", "undoing", "parked")

Line = Resumed | Skipped | EndForced


class Verb(StrEnum):
    RETRY = "retry"
    SKIP = "skip"
    COMPENSATE = "compensate"
    END = "end"


# What the record says of each verb; of a forced end it says what became of the order.
OUTCOMES = {Verb.RETRY: "resumed", Verb.SKIP: "skipped", Verb.COMPENSATE: "withdrawn"}


@dataclass(frozen=True, slots=True)
class Intervention:
    """What an operator wants done with one transaction, and why. `key` makes a repeat the same request."""

    key: str
    verb: Verb
    transaction_id: str
    by: str
    why: str
    step: str = ""
    proof: str = ""

    @property
    def fingerprint(self) -> bytes:
        """Tells a repeat from another request under the same key, whichever entrance it comes through."""
        asked = (self.verb, self.transaction_id, self.by, self.why, self.step, self.proof)
        return hashlib.sha256("\0".join(asked).encode()).digest()


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator did, or tried to: then the outcome says that it was refused, and by which code."""

    action_id: str
    transaction_id: str
    verb: str
    step: str
    by: str
    why: str
    proof: str
    outcome: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction as operators see it.

    `status` is running, undoing, parked or ended; `reason` says why it is parked, or how it ended. `since` is when
    something last happened to it. `skippable` are the steps that may be proven, the one it is stuck at first.

    A naive checkout is pending with no coordinator: it runs while its calls may, and is parked once they are over.
    """

    transaction_id: str
    order_id: str
    style: str
    status: str
    phase: str
    reason: str
    waits_for: str
    started_at: datetime
    since: datetime
    age_seconds: float
    skippable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SagaSubject:
    """A transaction that a coordinator runs, by its definition and its log."""

    saga: Saga
    remembered: Remembered
    state: State

    @property
    def order_id(self) -> str:
        return str(self.remembered.instance.input.order_id)

    @property
    def is_checkout(self) -> bool:
        return self.saga.name != CANCELLATION.name

    @property
    def waits_for(self) -> str:
        return timeline.waits_for(self.saga, self.remembered.lines)

    @property
    def provable(self) -> tuple[str, ...]:
        """The steps that may be skipped on a proof, the one it is stuck at first: only what other services do."""
        return tuple(name for name in skippable(self.saga, self.state) if not self.is_own(self.saga.step(name)))

    def is_own(self, step: Step) -> bool:
        """Whether what is left of the step is between the saga and its own order."""
        make = step.undone_by if self.state.phase is Phase.PARKED_UNDOING and step.undone_by else step.do
        return make(self.remembered.instance.input, self.state.results).participant == OWN


@dataclass(frozen=True, slots=True)
class OrderSubject:
    """A checkout without a coordinator, by its order and by what was last heard of it.

    `is_abandoned`: nobody will move it any more, as far as one can tell from outside.
    """

    order_id: str
    style: str
    status: str
    reason: str
    waits_for: str
    started_at: datetime
    moved_at: datetime
    is_abandoned: bool


Subject = SagaSubject | OrderSubject


@dataclass(frozen=True, slots=True)
class TransactionPage:
    """One page, and the key to ask for the next one with; empty at the end."""

    transactions: Sequence[Transaction]
    next_after: str


@dataclass(frozen=True, slots=True)
class ActionPage:
    actions: Sequence[Action]
    next_before: str


@dataclass(frozen=True, slots=True)
class Intervened:
    """The record of it, and the transaction as it is now."""

    action: Action
    transaction: Transaction


class Operations(Protocol):
    """Operators' view of every transaction, whatever its style."""

    async def page(self, state: str, limit: int, after: str) -> TransactionPage:
        """Transactions that have not ended, in the order of their ids: oldest first. Raises Invalid."""
        ...

    async def get(self, transaction_id: str) -> Transaction:
        """One transaction, ended or not. Raises NotFound."""
        ...

    async def actions(self, transaction_id: str, limit: int, before: str) -> ActionPage:
        """What operators did, to one transaction or to any, newest first."""
        ...


class Interventions(Protocol):
    async def intervene(self, intervention: Intervention) -> Intervened:
        """Does it and keeps who and why, in one transaction; a repeat under the same key changes nothing.

        Raises Conflict when the transaction is not where this may be done, or somebody else was faster. Who was refused
        what is kept as well; under the same key it may be asked again.
        """
        ...


def checked(intervention: Intervention) -> Intervention:
    """The intervention, if it says on what, who, why, and on what proof. Raises Invalid."""
    checked_id(intervention.transaction_id)
    _said("by", intervention.by, NAME_LETTERS_MAX)
    _said("why", intervention.why, WORDS_LETTERS_MAX)
    if intervention.verb is Verb.SKIP or intervention.proof:
        _said("proof", intervention.proof, WORDS_LETTERS_MAX)
    if intervention.step:
        _said("step", intervention.step, NAME_LETTERS_MAX)
    return intervention


def _said(name: str, value: str, letters_max: int) -> None:
    if not value.strip() or len(value) > letters_max:
        raise Invalid(f"{name} has 1 to {letters_max} characters, not {len(value.strip())}")
    if "\0" in value:
        raise Invalid(f"{name} is text")


def checked_id(transaction_id: str) -> str:
    if not (0 < len(transaction_id) <= ID_LETTERS_MAX and transaction_id.isascii() and transaction_id.isprintable()):
        raise Invalid(f"a transaction's id has 1 to {ID_LETTERS_MAX} printable ASCII characters")
    return transaction_id


def checked_state(state: str) -> str:
    if state not in STATES:
        raise Invalid(f"state is one of {', '.join(STATES[1:])}, or empty for all, not {state!r}")
    return state


def line_for(intervention: Intervention, subject: SagaSubject, order: Order) -> Line | None:
    """What the intervention writes into a saga's log; nothing when the order's withdrawal is all it takes.

    Raises Conflict where the saga's table has no place for it, or it could leave something half done.
    """
    state, by, why = subject.state, intervention.by, intervention.why
    if state.phase is Phase.ENDED:
        raise Conflict(f"the transaction has ended: {state.outcome}", code="already-ended")
    if intervention.verb is Verb.COMPENSATE:
        return _turned_back(intervention, subject)
    if state.parked is None:
        raise Conflict(f"the transaction is not parked, it waits for {subject.waits_for}", code="not-parked")
    match intervention.verb:
        case Verb.RETRY:
            return Resumed(by, why)
        case Verb.SKIP:
            return Skipped(_step_to_skip(intervention, subject), by, why, intervention.proof)
        case Verb.END:
            _expect_nothing_owed(subject, order)
            return EndForced(by, why)


def _turned_back(intervention: Intervention, subject: SagaSubject) -> Resumed | None:
    """A pivot that is tried again is refused by the withdrawn order, and so the machine goes back by itself."""
    state = subject.state
    if not subject.is_checkout:
        raise Conflict("a cancellation takes an order back already: retry, skip or end it", code="not-a-checkout")
    if state.phase in {Phase.UNDOING, Phase.PARKED_UNDOING}:
        what = "retry it, or skip the step it is stuck at" if state.parked is not None else "wait for it"
        raise _going_back_already(what)
    return Resumed(intervention.by, intervention.why) if state.parked is not None else None


def _step_to_skip(intervention: Intervention, subject: SagaSubject) -> str:
    may = subject.provable
    if intervention.step and intervention.step in may:
        return intervention.step
    if not skippable(subject.saga, subject.state):
        raise Conflict("it waits for the step that decides, which nobody can prove: retry it", code="pivot")
    if not may:
        raise Conflict("what is left is the order's own, which needs no proof: retry or end it", code="own-step")
    if intervention.step:
        raise Conflict(f"{intervention.step} cannot be skipped; what can: {', '.join(may)}", code="not-skippable")
    return may[0]


def _expect_nothing_owed(subject: SagaSubject, order: Order) -> None:
    left = owed(subject, order)
    if left:
        raise Conflict(
            f"this may still be owed: {', '.join(left)}; retry it, or skip each with a proof",
            code="still-owed",
            details={"owed": ", ".join(left)},
        )


def owed(subject: SagaSubject, order: Order) -> tuple[str, ...]:
    """What may still have to be done or undone elsewhere before a parked saga can be left as it is.

    Of a step that decides, and has not answered, the order says how it went if it is the order's own.
    """
    saga, state = subject.saga, subject.state
    if state.phase is Phase.PARKED_UNDOING:
        return tuple(f"undo of {name}" for name in subject.provable)
    others = [step for step in saga.steps if not subject.is_own(step)]
    left = tuple(step.name for step in others if not state.of(step.name).done)
    pivot = next((step for step in saga.steps if step.kind is Kind.PIVOT), None)
    is_open = pivot is not None and subject.is_own(pivot) and not state.of(pivot.name).done
    if is_open and order.status not in {Status.CONFIRMED, Status.SHIPPED}:
        return tuple(f"undo of {step.name}" for step in others if step.undone_by is not None)
    return left


def event_of_saga(intervention: Intervention, subject: SagaSubject, order: Order, at: datetime) -> domain.Change | None:
    """What the intervention means for the order of a saga. Raises Conflict."""
    match intervention.verb:
        case Verb.RETRY | Verb.SKIP:
            return None
        case Verb.COMPENSATE:
            return _withdrawal(order, intervention.why, at)
        case Verb.END if subject.is_checkout:
            code = subject.state.undo.code if subject.state.undo is not None else FORCED_END
            return _settlement(order, code, intervention.why, at)
        case Verb.END:
            return _end_of_cancellation(subject, order, at)


def _end_of_cancellation(subject: SagaSubject, order: Order, at: datetime) -> domain.Change | None:
    """Nothing is owed: either everything was taken back, or nothing is and the order stays."""
    if subject.state.undo is not None:
        return domain.refuse_cancel(order, subject.state.undo.code, at)
    return domain.cancel(order, at) if order.status is Status.CONFIRMED else None


def event_of_order(
    intervention: Intervention, order: Order, subject: OrderSubject, at: datetime
) -> domain.Change | None:
    """What the intervention means for an order whose checkout nobody coordinates. Raises Conflict."""
    if subject.status == ENDED:
        raise Conflict(f"the transaction has ended: {subject.reason}", code="already-ended")
    if intervention.verb is Verb.END:
        if not subject.is_abandoned:
            raise Conflict(f"the transaction still moves, it waits for {subject.waits_for}", code="still-moving")
        _expect_proof_of_nothing_owed(intervention, order, subject)
        return _settlement(order, FORCED_END, intervention.why, at)
    if subject.style != CHOREOGRAPHED or intervention.verb is Verb.SKIP:
        raise Conflict(f"nobody coordinates this checkout: {intervention.verb} cannot be done", code="no-coordinator")
    if intervention.verb is Verb.RETRY:
        return _said_again(order, subject, at)
    if order.withdrawn or order.cancel_requested:
        raise _going_back_already("retry it once it is parked")
    return _withdrawal(order, intervention.why, at)


def _expect_proof_of_nothing_owed(intervention: Intervention, order: Order, subject: OrderSubject) -> None:
    """Whoever hears of the checkout after its end must take it back: so it is withdrawn first where anybody listens."""
    if subject.style == CHOREOGRAPHED and not (order.withdrawn or order.cancel_requested or order.decided):
        raise Conflict("its services may still go on with it: compensate it first", code="not-withdrawn")
    if not intervention.proof:
        raise Conflict(
            "anything it did may still be owed, and nobody here knows: say what shows that nothing is (proof)",
            code="still-owed",
            details={"owed": "whatever stock, charge and booking it has"},
        )


def _said_again(order: Order, subject: OrderSubject, at: datetime) -> domain.CheckoutWithdrawn:
    """Says once more that the checkout is given up: each service answers what it answered before, if it can."""
    if subject.status != PARKED:
        raise Conflict(f"the transaction is not parked, it waits for {subject.waits_for}", code="not-parked")
    code = order.withdrawn or order.cancel_requested
    if not code or order.decided:
        raise Conflict("the checkout was not given up, there is nothing to say again", code="not-withdrawn")
    return domain.CheckoutWithdrawn(code, "said again", at)


def _withdrawal(order: Order, why: str, at: datetime) -> domain.CheckoutWithdrawn | None:
    """Keeps a pending order from ever being confirmed; nothing when that is so already. Raises Conflict."""
    if order.status in {Status.CONFIRMED, Status.SHIPPED}:
        raise Conflict(f"the order is {order.status}: cancel it instead", code=f"order-{order.status}")
    return domain.withdraw(order, COMPENSATED, why, at)


def _settlement(order: Order, code: str, why: str, at: datetime) -> domain.Change | None:
    """Ends a pending order of whose checkout nothing is left; one that is decided stays as it is."""
    return None if order.decided else domain.end_unconfirmed(order, code, why, at)


def _going_back_already(what: str) -> Conflict:
    return Conflict(f"the transaction is going back already: {what}", code="already-going-back")
