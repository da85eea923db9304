"""What each part is there for: without it, cases of the contract that are kept otherwise are broken."""

from collections.abc import Iterator

import pytest

from tests.conftest import StartPlatform
from tests.integration.coordination import cases
from tests.integration.coordination.cases import Case
from tests.integration.coordination.conftest import opened
from tests.integration.coordination.yard import Broken, Yard

PARTICIPANTS = ("inventory", "payment", "shipping")
# Who goes without which part, and what of it is seen.
MISSED = {
    "barrier": (PARTICIPANTS, "although it was undone"),
    "inbox": ((*PARTICIPANTS, "order"), "because a message came twice"),
    "decision-log": (("order",), "G3 stock-not-taken"),
}
# Without the part, this case of the contract is broken in this style.
WITHOUT: list[tuple[str, str, Case]] = [
    # Before what leaves rows locked by a transaction that nobody may have prepared.
    ("inbox", "choreographed", cases.messages_arrive_twice),
    ("barrier", "orchestrated", cases.undo_before_do),
    ("barrier", "tcc", cases.undo_before_do),
    ("barrier", "twophase", cases.undo_before_do),
    ("decision-log", "tcc", cases.a_hold_outlives_its_lease),
    ("decision-log", "twophase", cases.a_hold_outlives_its_lease),
]


@pytest.fixture(scope="module")
def crippled(start_platform: StartPlatform) -> Iterator[Yard]:
    """A platform of its own: what is broken here shall not be found elsewhere."""
    with opened(start_platform) as yard:
        yield yard


@pytest.mark.parametrize(
    ("part", "style", "case"), WITHOUT, ids=[f"{part}-{style}-{case.__name__}" for part, style, case in WITHOUT]
)
def test_without_it_the_contract_is_broken(part: str, style: str, case: Case, crippled: Yard) -> None:
    services, seen = MISSED[part]
    crippled.leave_out(part, services)
    try:
        with pytest.raises(Broken, match=seen):
            case(crippled, style)
    finally:
        crippled.leave_out("", services)
