"""The order's own sagas, gone through in every way they can go, with an operator who may do at any moment what he is
not refused: nothing is ever left half done.

The verbs are the service's own decisions; what the world may do next is `tests/unit/saga/exploration.py`. Tries are cut
short, and of many branches one is taken: all are treated alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from libs.kernel.errors import Conflict
from libs.saga.definition import Kind, Retry, Saga
from libs.saga.entries import CancelRequested
from libs.saga.machine import FORCED, Phase, State
from services.order import domain, operations
from services.order.domain import Order
from services.order.operations import COMPENSATED, Intervention, Line, SagaSubject, Verb, event_of_saga, line_for
from services.order.saga import CANCELLATION, CHECKOUT, CHECKOUT_TCC, CHECKOUT_TWO_PHASE
from tests.unit.order.parked import LATER, order, subject
from tests.unit.saga.exploration import DONE, PARKED, REFUSED, Budget, Effect, Exploration, Node, Violation, World

ONCE = Retry(attempts_max=1)


def only(saga: Saga, *names: str) -> Saga:
    """The saga with these of its steps, each tried once."""
    steps = tuple(replace(saga.step(name), retry=ONCE, undo_retry=ONCE) for name in names)
    return Saga(saga.name, steps)


PLAIN = only(CHECKOUT, "place-order", "charge", "confirm-order")
TCC = only(CHECKOUT_TCC, "place-order", "hold-stock", "decide-confirm", "confirm-stock")
TWO_PHASE = only(CHECKOUT_TWO_PHASE, "place-order", "prepare-stock", "prepare-payment", "decide-commit", "commit-stock")
BACK = only(CANCELLATION, "request-cancel", "cancel-booking", "refund", "mark-cancelled")


class Operated(Exploration):
    """Here the verbs are decided by the order service, and change its order as well."""

    def _somebody_begins(self, node: Node) -> Iterator[Node]:
        log = self._states[node.log]
        if log.phase not in PARKED:
            yield from super()._somebody_begins(node)
            return
        for verb, step in self._affordable(node.budget, log):
            yield from self._done(node, verb, step)

    def _affordable(self, budget: Budget, log: State) -> Iterator[tuple[Verb, str]]:
        if budget.resumes:
            yield Verb.RETRY, ""
        if budget.forced:
            yield Verb.END, ""
        if budget.cancels:
            yield Verb.COMPENSATE, ""
        for step in self._names if budget.skips else ():
            yield Verb.SKIP, step

    def _done(self, node: Node, verb: Verb, step: str) -> Iterator[Node]:
        log = self._states[node.log]
        line, event = self._decided(node, verb, step)
        if line is None or (verb is Verb.SKIP and not self._is_proven(node, step, log.phase)):
            return
        overtaken = tuple(one._replace(first=False) for one in node.coordinators)
        written = self._id(self.rules.apply(log, line))
        yield Node(written, overtaken, self._changed(node.world, event), spent(node.budget, verb))

    def _cancels(self, node: Node) -> Iterator[Node]:
        """An operator compensates what runs: durably, and perhaps the coordinator hears of it."""
        log = self._states[node.log]
        if not node.budget.cancels or log.phase in {*PARKED, Phase.ENDED}:
            return
        line, event = self._decided(node, Verb.COMPENSATE, "")
        assert line is None, "what runs has its own writer"
        if event is None:
            return
        withdrawn = node._replace(world=self._changed(node.world, event), budget=spent(node.budget, Verb.COMPENSATE))
        yield withdrawn
        for at, one in enumerate(node.coordinators):
            if self._states[one.state].outcome is None:
                heard = self.rules.apply(self._states[one.state], CancelRequested("wrong price", COMPENSATED))
                yield self._with(withdrawn, at, one._replace(state=self._id(heard)))

    def _decided(self, node: Node, verb: Verb, step: str) -> tuple[Line | None, domain.Change | None]:
        seen, order = subject(self.saga, self._states[node.log]), self._order(node.world)
        one = Intervention("k", verb, "ord_1", "olga", "because", step, "seen")
        try:
            return line_for(one, seen, order), event_of_saga(one, seen, order, LATER)
        except Conflict:
            return None, None

    def _order(self, world: World) -> Order:
        """What the order knows: its own steps are events of it."""
        effects = dict(zip(self._names, world, strict=True))
        pivot = next(effects[step.name] for step in self.saga.steps if step.kind is Kind.PIVOT)
        if self.saga.name == CANCELLATION.name:
            events: list[domain.Change] = [domain.OrderConfirmed(LATER), domain.CancelRequested("too late", LATER)]
            if effects["mark-cancelled"].row == DONE:
                events.append(domain.OrderCancelled("too late", LATER))
            elif effects["request-cancel"].undone:
                events.append(domain.CancelRefused("shipped", LATER))
            return order(*events)
        if pivot.row == DONE:
            return order(domain.OrderConfirmed(LATER))
        withdrawn = [domain.CheckoutWithdrawn(COMPENSATED, "", LATER)] if pivot.row == REFUSED else []
        closed = "place-order" in effects and effects["place-order"].undone
        return order(*withdrawn, *([domain.OrderRejected("no", "", LATER)] if closed else []))

    def _changed(self, world: World, event: domain.Change | None) -> World:
        """An event of the order is the effect of the step of its own that would have made it."""
        match event:
            case None:
                return world
            case domain.CheckoutWithdrawn():
                return self._with_effect(world, self._pivot(), Effect(row=REFUSED, late=world[self._pivot()].late))
            case domain.OrderRejected():
                return self._with_effect(world, self._names.index("place-order"), Effect(DONE, undone=True))
            case domain.CancelRefused():
                return self._with_effect(world, self._names.index("request-cancel"), Effect(DONE, undone=True))
            case domain.OrderCancelled():
                return self._with_effect(world, self._names.index("mark-cancelled"), Effect(DONE))
            case _:
                raise AssertionError(f"no verb makes {event}")

    def _pivot(self) -> int:
        return next(at for at, step in enumerate(self.saga.steps) if step.kind is Kind.PIVOT)

    def _with_effect(self, world: World, at: int, effect: Effect) -> World:
        return (*world[:at], effect, *world[at + 1 :])

    def _check_end(self, node: Node) -> None:
        super()._check_end(node)
        if self._states[node.log].outcome == FORCED:
            standing = [effect.stands for effect in node.world]
            self._expect(all(standing) or not any(standing), "ended, but half done", node)
            waiting = any(effect.late and not effect.row for effect in node.world)
            self._expect(not waiting, "ended, but a late message can still do something", node)


def spent(budget: Budget, verb: Verb) -> Budget:
    match verb:
        case Verb.RETRY:
            return budget._replace(resumes=budget.resumes - 1)
        case Verb.SKIP:
            return budget._replace(skips=budget.skips - 1)
        case Verb.COMPENSATE:
            return budget._replace(cancels=budget.cancels - 1)
        case Verb.END:
            return budget._replace(forced=budget.forced - 1)


EVERYTHING_ONCE = Budget(cancels=1, resumes=1, skips=1, forced=1)


@pytest.mark.parametrize(
    ("saga", "budget"),
    [
        (PLAIN, EVERYTHING_ONCE),
        (PLAIN, Budget(crashes=1, cancels=1, skips=1, forced=1)),
        (PLAIN, Budget(rivals=1, cancels=1, forced=1)),
        (TCC, EVERYTHING_ONCE),
        (TCC, Budget(crashes=1, cancels=1, forced=1)),
        (TWO_PHASE, EVERYTHING_ONCE),
        (BACK, Budget(crashes=1, resumes=1, skips=2, forced=1)),
        (BACK, EVERYTHING_ONCE),
    ],
    ids=lambda value: value.name if isinstance(value, Saga) else "",
)
def test_nothing_an_operator_may_do_leaves_anything_half_done(saga: Saga, budget: Budget) -> None:
    explored = Operated(saga, budget).run()
    print(f"{saga.name}: {explored.visited} states, ends {sorted({outcome for outcome, _ in explored.ends})}")
    assert explored.visited > 500
    assert {"completed", "undone", FORCED} <= {outcome for outcome, _ in explored.ends}


def _owes_nothing(seen: SagaSubject, order: Order) -> tuple[str, ...]:
    return ()


def _believes_the_log_about_the_order(seen: SagaSubject, order: Order) -> tuple[str, ...]:
    return tuple(step.name for step in seen.saga.steps if not seen.is_own(step) and not seen.state.of(step.name).done)


@pytest.mark.parametrize(
    ("saga", "owed"),
    [
        (PLAIN, _owes_nothing),
        (TCC, _owes_nothing),
        (TWO_PHASE, _owes_nothing),
        (BACK, _owes_nothing),
        (PLAIN, _believes_the_log_about_the_order),
    ],
    ids=lambda value: value.name if isinstance(value, Saga) else value.__name__,
)
def test_an_end_that_owes_something_is_found(
    saga: Saga, owed: Callable[[SagaSubject, Order], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "owed", owed)
    with pytest.raises(Violation, match="ended, but"):
        Operated(saga, EVERYTHING_ONCE).run()
