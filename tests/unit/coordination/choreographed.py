"""The choreographed checkout: the services' own rules, their outboxes, one stream for each topic, and who reads it.

An event goes from its service's outbox to the end of its topic's stream whenever the relay gets to it, and each service
reads each stream in order, at its own pace. Effect, inbox and what is said next are one transaction. What payment was
asked to do it does later, with its processor, in any order, and says what came of it then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from libs.choreography.rules import Part, Rule
from libs.tcc.barrier import Manner, Operation
from services.inventory import choreography as inventory
from services.order import choreography as order_service
from services.order.domain import Order
from services.payment import choreography as payment
from services.shipping import choreography as shipping
from tests.unit.coordination import orders
from tests.unit.coordination.invariants import broken_promise
from tests.unit.coordination.participants import NO_ANSWER, REFUSED, Site, Sort, deliver

PARTS: tuple[Part, ...] = (order_service.PART, inventory.PART, payment.PART, shipping.PART)
ORDER, PAYMENT = 0, 2
SITES = range(1, len(PARTS))
PLACED, WITHDRAWN = order_service.BEGINS
ORDERS, CHECKOUTS = 0, 1
TOPICS = (ORDERS, CHECKOUTS)
# What each effect asks of its service's barrier, or of the order.
EFFECTS: Mapping[str, Operation] = {
    "deduct-stock": Operation.DO,
    "restock": Operation.UNDO,
    "charge": Operation.DO,
    "refund": Operation.UNDO,
    "book-shipment": Operation.DO,
    "cancel-booking": Operation.UNDO,
}


class Budget(NamedTuple):
    """How often each may still happen: a customer cancels, the deadline passes, an operator says it again, an event
    that was read is read again by a service whose inbox forgot it."""

    cancels: int = 0
    deadlines: int = 0
    said_again: int = 0
    repeats: int = 0


class Node(NamedTuple):
    """The order and the other services' sites; what waits in each outbox; the streams; how far each service has read
    each of them; what payment still owes."""

    order: Order
    sites: tuple[Site, ...]
    outboxes: tuple[tuple[str, ...], ...]
    streams: tuple[tuple[str, ...], ...]
    read: tuple[tuple[int, ...], ...]
    owed: frozenset[str]
    budget: Budget


@dataclass
class Choreography:
    """One order; `sorts` says how inventory, payment and shipping work."""

    budget: Budget
    sort: Sort = field(default_factory=Sort)

    def __post_init__(self) -> None:
        self._broken = lru_cache(maxsize=None)(broken_promise)

    def start(self) -> Node:
        nothing: tuple[str, ...] = ()
        return Node(
            order=orders.PLACED,
            sites=(Site(),) * len(SITES),
            outboxes=((PLACED,), *[nothing] * len(SITES)),
            streams=(nothing,) * len(TOPICS),
            read=((0,) * len(PARTS),) * len(TOPICS),
            owed=frozenset(),
            budget=self.budget,
        )

    def after(self, node: Node) -> Iterator[tuple[str, Node]]:
        for service, part in enumerate(PARTS):
            yield from _published(node, service, part)
            for topic in TOPICS:
                yield from self._reads(node, service, part, topic)
        for name in sorted(node.owed):
            settled = node._replace(owed=node.owed - {name})
            yield from self._acts(settled, PAYMENT, PARTS[PAYMENT].on(name), unanswered=node)
        yield from self._withdrawn(node)

    def _reads(self, node: Node, service: int, part: Part, topic: int) -> Iterator[tuple[str, Node]]:
        """The next event, or one that came before."""
        at, stream = node.read[topic][service], node.streams[topic]
        if at < len(stream):
            read = _replaced(node.read, topic, _replaced(node.read[topic], service, at + 1))
            yield from self._hears(_trimmed(node._replace(read=read)), service, part, stream[at])
        if node.budget.repeats:
            again = node._replace(budget=node.budget._replace(repeats=node.budget.repeats - 1))
            for event in sorted({event for event in stream[:at] if event in part.events}):
                yield from self._hears(again, service, part, event)

    def _hears(self, node: Node, service: int, part: Part, event: str) -> Iterator[tuple[str, Node]]:
        if event not in part.events:
            yield f"{part.service} passes over {event}", node
        elif service == PAYMENT:
            yield f"payment hears {event}", node._replace(owed=node.owed | {event})
        else:
            yield from self._acts(node, service, part.on(event))

    def _acts(self, node: Node, service: int, rule: Rule, unanswered: Node | None = None) -> Iterator[tuple[str, Node]]:
        label = f"{PARTS[service].service} has {rule.effect} on {rule.on}"
        if service == ORDER:
            yield label, node._replace(order=orders.answer(node.order, rule.effect)[0])
            return
        sort = self.sort if service == PAYMENT else Sort(barrier=self.sort.barrier, suspends=self.sort.suspends)
        for site, said in deliver(node.sites[service - 1], EFFECTS[rule.effect], Manner.AT_ONCE, sort):
            before = unanswered if said == NO_ANSWER and unanswered else node
            acted = before._replace(sites=_replaced(before.sites, service - 1, site))
            assert said != REFUSED or rule.refused, f"{rule.effect} was refused, and nobody is told"
            event = rule.refused if said == REFUSED else rule.then
            yield f"{label}: {said}", acted if said == NO_ANSWER else _says(acted, service, event)

    def _withdrawn(self, node: Node) -> Iterator[tuple[str, Node]]:
        """The customer, the deadline, or an operator takes the checkout back, while it is not decided."""
        order, budget = node.order, node.budget
        if order.decided:
            return
        given_up = bool(order.withdrawn or order.cancel_requested)
        if budget.cancels and not order.cancel_requested:
            spent = budget._replace(cancels=budget.cancels - 1)
            taken_back = node._replace(order=orders.asked_to_cancel(order), budget=spent)
            yield "the customer cancels", _says(taken_back, ORDER, WITHDRAWN)
        if budget.deadlines and not given_up:
            spent = budget._replace(deadlines=budget.deadlines - 1)
            taken_back = node._replace(order=orders.withdrawn(order), budget=spent)
            yield "the deadline passes", _says(taken_back, ORDER, WITHDRAWN)
        if budget.said_again and given_up:
            spent = budget._replace(said_again=budget.said_again - 1)
            yield "an operator says it again", _says(node._replace(budget=spent), ORDER, WITHDRAWN)

    def broken(self, node: Node) -> str:
        return self._broken(node.order, node.sites)

    def end(self, node: Node) -> str:
        """Nothing waits to be said, read or done."""
        quiet = not any(node.outboxes) and not node.owed
        all_read = all(set(read) == {len(stream)} for read, stream in zip(node.read, node.streams, strict=True))
        return node.order.status.value if quiet and all_read and node.order.decided else ""

    def told(self, node: Node) -> str:
        statuses = ", ".join(
            f"{PARTS[at].service} {site.status or 'nothing'}" for at, site in zip(SITES, node.sites, strict=True)
        )
        return f"order {node.order.status}; {statuses}; streams {node.streams}; outboxes {node.outboxes}"


def _published(node: Node, service: int, part: Part) -> Iterator[tuple[str, Node]]:
    """A service's relay keeps the order in which it was said."""
    outbox = node.outboxes[service]
    if outbox:
        topic = ORDERS if outbox[0] == PLACED else CHECKOUTS
        streams = _replaced(node.streams, topic, (*node.streams[topic], outbox[0]))
        outboxes = _replaced(node.outboxes, service, outbox[1:])
        yield f"{part.service} announces {outbox[0]}", _trimmed(node._replace(streams=streams, outboxes=outboxes))


def _says(node: Node, service: int, event: str) -> Node:
    if not event:
        return node
    return node._replace(outboxes=_replaced(node.outboxes, service, (*node.outboxes[service], event)))


def _trimmed(node: Node) -> Node:
    """Readers pass over what does not concern them, and what all have read is forgotten unless it can be repeated."""
    read = [list(row) for row in node.read]
    streams = list(node.streams)
    for topic, stream in enumerate(streams):
        for service, part in enumerate(PARTS):
            while read[topic][service] < len(stream) and stream[read[topic][service]] not in part.events:
                read[topic][service] += 1
        if not node.budget.repeats:
            gone = min(read[topic])
            streams[topic] = stream[gone:]
            read[topic] = [at - gone for at in read[topic]]
    return node._replace(streams=tuple(streams), read=tuple(tuple(row) for row in read))


def _replaced(items: tuple, at: int, item: object) -> tuple:  # type: ignore[type-arg]  # of whatever it holds
    return (*items[:at], item, *items[at + 1 :])
