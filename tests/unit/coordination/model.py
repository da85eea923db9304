"""Coordinators, their logs, the order, two participants, and everything that can happen to them.

A coordinator does what `libs.saga.machine` says about the definitions that run in production, cut down to two
participants and few tries, and writes its log as `libs.saga.executor` does: what must be durable is before it goes on,
everything else may be lost with it. One that was slow may come back when another has taken over.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

from libs.coordination.outcomes import Outcome
from libs.saga import machine
from libs.saga.definition import Saga
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    FaultKind,
    PivotDecided,
    Resumed,
    Started,
    StepDone,
    StepFailed,
    StepRefused,
    TakenUp,
    UndoDone,
    UndoFailed,
)
from libs.saga.machine import Action, Do, Phase, Record, State, Undo
from libs.tcc.barrier import Manner, Operation
from services.order.domain import Order
from services.order.saga import checkout_of
from tests.unit.coordination import orders
from tests.unit.coordination.invariants import PROMISES, Promise, broken_promise
from tests.unit.coordination.network import COMMANDS, ORDER, SITES, Message, Network
from tests.unit.coordination.nodes import WAITING, Budget, Interned, Node, Run, Thread, replaced_run, with_thread
from tests.unit.coordination.participants import DONE, NO_ANSWER, REFUSED, Site, Sort, deliver

CHECKOUT, CANCELLATION = 0, 1
PARKED = frozenset({Phase.PARKED_COMMITTING, Phase.PARKED_UNDOING})
CHECKOUT_OF_ORDER = checkout_of(orders.PLACED)
RESTING = PARKED | {Phase.ENDED}


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may do what, and what must hold; a planted bug replaces one of them."""

    next_actions: Callable[[Saga, State], tuple[Action, ...]] = machine.next_actions
    sort: Sort = field(default_factory=Sort)
    resolved: Callable[[Order], tuple[Order, Outcome]] = orders.resolved
    logs_the_decision: bool = True
    asks_when_the_lease_ends: bool = True
    promises: Sequence[Promise] = PROMISES


def _state_key(state: State) -> object:
    steps = tuple(sorted(state.steps.items()))
    return state.phase.value, steps, state.lagging, state.undo, state.cancel, state.parked, state.outcome


class Coordination:
    """One order's checkout, and the cancellation that may follow it if there is one.

    `sorts` says how each site works where they differ.
    """

    def __init__(
        self, checkout: Saga, cancellation: Saga | None, budget: Budget, rules: Rules, sorts: tuple[Sort, ...] = ()
    ) -> None:
        self._sagas = (checkout, cancellation)
        self._budget = budget
        self._rules = rules
        self._sorts = sorts or (rules.sort,) * len(SITES)
        self._network = Network()
        self.states = Interned(_state_key)
        self.orders = Interned()
        self.sites = Interned()
        self._entries = Interned()
        self.apply = lru_cache(maxsize=None)(self._apply)
        self.actions = lru_cache(maxsize=None)(self._actions)
        self._bit_of = lru_cache(maxsize=None)(self._bit)
        self._results = lru_cache(maxsize=None)(self._deliver)
        self._ordered = lru_cache(maxsize=None)(self._obey)
        self._asked = lru_cache(maxsize=None)(self._ask)
        self._broken = lru_cache(maxsize=None)(self._problem)
        self._starts = lru_cache(maxsize=None)(self._start_calls)

    # -- what happens next

    def start(self) -> Node:
        began = self.states(machine.apply(State(), Started()))
        sites = (self.sites(Site()),) * len(SITES)
        return Node((Thread(began, (Run(began),)),), self.orders(orders.PLACED), sites, 0, self._budget)

    def after(self, node: Node) -> Iterator[tuple[str, Node]]:
        for which, thread in enumerate(node.threads):
            for at in range(len(thread.runs)):
                yield from self._goes_on(node, which, at)
            yield from self._taken_over(node, which, thread)
        yield from self._deliveries(node)
        yield from self._inquiries(node)
        yield from self._cancel(node)

    def _goes_on(self, node: Node, which: int, at: int) -> Iterator[tuple[str, Node]]:
        run = node.threads[which].runs[at]
        if run.calls:
            for number, call in enumerate(run.calls):
                if call == WAITING:
                    yield (
                        "a call gets no answer",
                        self._heard(node, which, at, number, self._no_answer(which, run, number)),
                    )
        else:
            actions = self.actions(which, run.state)
            if isinstance(actions[0], Record):
                yield self._records(node, which, at, actions[0])
            else:
                for bits, calls in self._starts(which, run.state):
                    begun = run._replace(begun=run.state, calls=calls)
                    yield "it calls", self._noted(node._replace(sent=node.sent | bits), which, at, begun)
        yield from self._dies(node, which, at)

    def _records(self, node: Node, which: int, at: int, action: Record) -> tuple[str, Node]:
        run = node.threads[which].runs[at]
        noted = run._replace(state=self.apply(run.state, self._entries(action.entry)))
        label = f"it records {type(action.entry).__name__}"
        if isinstance(action.entry, PivotDecided) and not self._rules.logs_the_decision:
            return label, replaced_run(node, which, at, noted)
        return label, self._written(node, which, at, noted)

    def _dies(self, node: Node, which: int, at: int) -> Iterator[tuple[str, Node]]:
        thread, budget = node.threads[which], node.budget
        run = thread.runs[at]
        if budget.crashes:
            yield (
                "a coordinator dies",
                replaced_run(node._replace(budget=budget._replace(crashes=budget.crashes - 1)), which, at),
            )
        if run.first and run.state != thread.log and (budget.crashes or budget.rivals):
            yield "its lines are saved", self._written(node, which, at, run)

    def _taken_over(self, node: Node, which: int, thread: Thread) -> Iterator[tuple[str, Node]]:
        budget, phase = node.budget, self.states[thread.log].phase
        if phase in PARKED and not thread.runs and budget.resumes:
            resumed = thread._replace(log=self.apply(thread.log, self._entries(Resumed("ops", "fixed"))))
            spent = node._replace(budget=budget._replace(resumes=budget.resumes - 1))
            yield "an operator resumes it", with_thread(spent, which, resumed)
        if phase in RESTING or len(thread.runs) > 1 or (thread.runs and not budget.rivals):
            return
        left = budget._replace(rivals=budget.rivals - 1) if thread.runs else budget
        taken_up = Run(self.apply(thread.log, self._entries(TakenUp("another"))))
        joined = with_thread(node, which, thread._replace(runs=(*thread.runs, taken_up)))._replace(budget=left)
        yield "another takes over", self._written(joined, which, len(thread.runs), taken_up)

    def _deliveries(self, node: Node) -> Iterator[tuple[str, Node]]:
        threads, order, sites, sent, budget = node
        waiting = self._waiting(threads)
        for bit, message in self._network.sent(sent):
            at, calls = message.site, waiting.get(bit)
            if at == ORDER:
                for label, changed, answer in self._ordered(message, order):
                    if calls or changed != order:
                        arrived = Node(threads, changed, sites, sent, budget)
                        yield from self._delivered(node, arrived, calls, label, answer)
            else:
                for label, site, answer in self._results(message, sites[at]):
                    if calls or site != sites[at]:
                        arrived = Node(threads, order, (*sites[:at], site, *sites[at + 1 :]), sent, budget)
                        yield from self._delivered(node, arrived, calls, label, answer)

    def _waiting(self, threads: tuple[Thread, ...]) -> dict[int, list[tuple[int, int, int]]]:
        """Which call, of which run of which saga, waits for the answer to each message."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        for which, thread in enumerate(threads):
            for at, run in enumerate(thread.runs):
                for number, call in enumerate(run.calls):
                    if call == WAITING:
                        bit = self._bit_of(which, self._tries(which, run.begun)[number])
                        found.setdefault(bit, []).append((which, at, number))
        return found

    def _delivered(
        self, node: Node, arrived: Node, waiting: Sequence[tuple[int, int, int]] | None, label: str, answer: str
    ) -> Iterator[tuple[str, Node]]:
        """Its sender hears what came of it, if it still waits, or does not."""
        if arrived != node:
            yield label, arrived
        if answer != NO_ANSWER:
            for which, at, number in waiting or ():
                entry = self._answer(which, node.threads[which].runs[at], number, answer)
                yield f"{label}, and its sender hears", self._heard(arrived, which, at, number, entry)

    def _inquiries(self, node: Node) -> Iterator[tuple[str, Node]]:
        for at, site in enumerate(node.sites):
            if self.sites[site].is_pending:
                order, bit, outcome = self._asked(node.order, at)
                if order != node.order or not node.sent & bit:
                    yield f"{SITES[at]} asks and hears {outcome}", node._replace(order=order, sent=node.sent | bit)

    def _cancel(self, node: Node) -> Iterator[tuple[str, Node]]:
        if not node.budget.cancels:
            return
        order: Order = self.orders[node.order]
        wanted = orders.asked_to_cancel(order)
        if wanted is order:
            return
        spent = node._replace(order=self.orders(wanted), budget=node.budget._replace(cancels=node.budget.cancels - 1))
        if order.decided:
            if self._sagas[CANCELLATION] is not None:
                began = self.states(machine.apply(State(), Started()))
                yield "the customer cancels", spent._replace(threads=(*node.threads, Thread(began, (Run(began),))))
            return
        yield "the customer cancels, nobody is told", spent
        for at, run in enumerate(node.threads[CHECKOUT].runs):
            state: State = self.states[run.state]
            if state.outcome is None:
                told = run._replace(state=self.apply(run.state, self._entries(CancelRequested("changed my mind"))))
                yield "the customer cancels", replaced_run(spent, CHECKOUT, at, told)

    # -- calls

    def _start_calls(self, which: int, state: int) -> list[tuple[int, tuple[int, ...]]]:
        """Each call is sent, or is certain not to be."""
        actions = self._tries(which, state)
        choices = [(WAITING, self._entries(self._unavailable(action))) for action in actions]
        started = []
        for calls in product(*choices):
            bits = 0
            for action, call in zip(actions, calls, strict=True):
                bits |= self._bit_of(which, action) if call == WAITING else 0
            started.append((bits, calls))
        return started

    def _tries(self, which: int, state: int) -> Sequence[Do | Undo]:
        return self.actions(which, state)  # type: ignore[return-value]  # asked only where there is nothing to record

    def _heard(self, node: Node, which: int, at: int, number: int, entry: AnyEntry) -> Node:
        run = node.threads[which].runs[at]
        calls = (*run.calls[:number], self._entries(entry), *run.calls[number + 1 :])
        return self._noted(node, which, at, run._replace(calls=calls))

    def _noted(self, node: Node, which: int, at: int, run: Run) -> Node:
        """A round of calls is noted when the last of them has come to something."""
        if WAITING not in run.calls:
            state = run.state
            for entry in run.calls:
                state = self.apply(state, entry)
            run = Run(state, first=run.first)
            if run.first and not (node.budget.crashes or node.budget.rivals):
                return self._written(node, which, at, run)  # nobody will ever read the difference
        return replaced_run(node, which, at, run)

    def _answer(self, which: int, run: Run, number: int, answer: str) -> AnyEntry:
        action = self._tries(which, run.begun)[number]
        if isinstance(action, Undo):
            return UndoDone(action.step) if answer == DONE else UndoFailed(action.step, action.attempt, "failed")
        return StepDone(action.step) if answer == DONE else StepRefused(action.step, "refused", "no")

    def _no_answer(self, which: int, run: Run, number: int) -> AnyEntry:
        action = self._tries(which, run.begun)[number]
        if isinstance(action, Undo):
            return UndoFailed(action.step, action.attempt, "failed")
        return StepFailed(action.step, action.attempt, FaultKind.IN_DOUBT, "failed")

    def _unavailable(self, action: Do | Undo) -> AnyEntry:
        if isinstance(action, Undo):
            return UndoFailed(action.step, action.attempt, "failed")
        return StepFailed(action.step, action.attempt, FaultKind.UNAVAILABLE, "failed")

    def _bit(self, which: int, action: Do | Undo) -> int:
        """The message of a call, by the command that its definition makes."""
        saga = self._sagas[which]
        assert saga is not None
        step = saga.step(action.step)
        make = step.do if isinstance(action, Do) else step.undone_by
        assert make is not None
        command = make(CHECKOUT_OF_ORDER, {})
        if command.participant == "order":
            return self._network.bit(Message(ORDER, Operation.DO, Manner.AT_ONCE, command.name))
        return self._network.bit(Message(SITES.index(command.participant), *COMMANDS[command.name], command.name))

    def _written(self, node: Node, which: int, at: int, run: Run) -> Node:
        """The log takes the lines of a run that wrote last, which may rest then; any other finds out and stops."""
        if not run.first:
            return replaced_run(node, which, at)
        runs = node.threads[which].runs
        if len(runs) > 1:
            runs = tuple(other._replace(first=False) for other in runs)
        rests = not run.calls and not self.actions(which, run.state)
        return with_thread(node, which, Thread(run.state, (*runs[:at], *(() if rests else (run,)), *runs[at + 1 :])))

    # -- memoised: what each part does, by numbers

    def _apply(self, state: int, entry: int) -> int:
        return self.states(machine.apply(self.states[state], self._entries[entry]))

    def _actions(self, which: int, state: int) -> tuple[Action, ...]:
        saga = self._sagas[which]
        assert saga is not None
        return self._rules.next_actions(saga, self.states[state])

    def _obey(self, message: Message, order: int) -> list[tuple[str, int, str]]:
        changed, yes = orders.answer(self.orders[order], message.name)
        answer = DONE if yes else REFUSED
        return [(f"{message.name} arrives: {answer}", self.orders(changed), answer)]

    def _deliver(self, message: Message, site: int) -> list[tuple[str, int, str]]:
        results = deliver(self.sites[site], message.operation, message.manner, self._sorts[message.site])
        return [(f"{message.name} arrives: {answer}", self.sites(after), answer) for after, answer in results]

    def _ask(self, order: int, at: int) -> tuple[int, int, str]:
        """The order after a participant asked, and what the participant then tells itself to do."""
        outcome = Outcome.CANCEL
        answered = self.orders[order]
        if self._rules.asks_when_the_lease_ends:
            answered, outcome = self._rules.resolved(answered)
        operation = Operation.CONFIRM if outcome is Outcome.CONFIRM else Operation.UNDO
        message = Message(at, operation, Manner.PREPARE, f"{SITES[at]}'s own {operation.value}")
        return self.orders(answered), self._network.bit(message), outcome.value

    def _problem(self, order: int, sites: tuple[int, ...]) -> str:
        return broken_promise(self.orders[order], [self.sites[site] for site in sites], self._rules.promises)

    # -- what is looked at

    def broken(self, node: Node) -> str:
        return self._broken(node.order, node.sites)

    def end(self, node: Node) -> str:
        if any(thread.runs for thread in node.threads):
            return ""
        phases = [self.states[thread.log].phase for thread in node.threads]
        if any(phase in PARKED for phase in phases):
            return "" if node.budget.resumes else "parked"
        pending = any(self.sites[site].is_pending for site in node.sites)
        order: Order = self.orders[node.order]
        ended = order.decided and all(phase is Phase.ENDED for phase in phases)
        return order.status.value if ended and not pending else ""

    def told(self, node: Node) -> str:
        order: Order = self.orders[node.order]
        logs = [self.states[thread.log].phase.value for thread in node.threads]
        running = [[self.states[run.state].phase.value for run in thread.runs] for thread in node.threads]
        wishes = f"{order.cancel_requested}{order.withdrawn}" or "nothing asked"
        sites = "; ".join(
            f"{name} {_site_told(self.sites[site])}" for name, site in zip(SITES, node.sites, strict=True)
        )
        return f"order {order.status} ({wishes}), log {logs}, running {running}; {sites}"


def _site_told(site: Site) -> str:
    rows = "+".join(operation.value for operation in Operation if getattr(site, operation.value)) or "no row"
    prepared = ", prepared" if site.prepared else ""
    return f"{site.status or 'nothing'} ({rows}{prepared}{', ' * bool(site.processor)}{site.processor})"
