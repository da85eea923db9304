"""The choreographed checkout as its services' tables make it: whole, and drawn in the documentation as it is."""

import os
from dataclasses import replace

from libs.choreography.rules import Part, Rule, diagram, problems
from services.inventory.choreography import PART as INVENTORY
from services.order.choreography import BEGINS
from services.order.choreography import PART as ORDER
from services.payment.choreography import PART as PAYMENT
from services.shipping.choreography import PART as SHIPPING
from tests.architecture.sources import ROOT

PARTS = (ORDER, INVENTORY, PAYMENT, SHIPPING)
PAGE = ROOT / "docs" / "coordination.md"
FENCE, END = "```mermaid\nflowchart LR\n", "```\n"


def test_every_event_is_said_and_heard() -> None:
    assert problems(PARTS, BEGINS, ()) == []


def test_a_part_that_is_left_out_is_missed() -> None:
    assert problems((ORDER, INVENTORY, SHIPPING), BEGINS, ()) == [
        "nobody says PaymentCharged, yet somebody waits for it",
        "nobody says PaymentRefunded, yet somebody waits for it",
        "nobody says PaymentRefused, yet somebody waits for it",
        "nobody listens to ShipmentCancelled",
        "nobody listens to ShipmentRefused",
        "nobody listens to StockDeducted",
    ]


def test_an_event_calls_for_one_effect_of_a_service() -> None:
    twice = replace(SHIPPING, rules=(*SHIPPING.rules, Rule(on="PaymentCharged", effect="weigh")))
    assert problems((ORDER, INVENTORY, PAYMENT, twice), BEGINS, ()) == ["shipping has two rules on PaymentCharged"]


def test_what_begins_it_must_be_heard() -> None:
    assert problems((Part("order", ()),), ("OrderPlaced",), ()) == ["nobody listens to OrderPlaced"]


def test_the_documentation_draws_it_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    begin = page.index(FENCE)
    before, rest = page[:begin], page[begin:]
    after = rest[rest.index(END, 1) :]
    drawn = before + "```mermaid\n" + diagram(PARTS, BEGINS) + after
    if os.environ.get("DOCKYARD_REWRITE_TRANSCRIPTS"):
        PAGE.write_text(drawn, encoding="utf-8")
    else:
        assert page == drawn, "run `make transcripts` and review the diff"
