"""Says how much was explored; a search that suddenly has little to search is no search."""

from collections.abc import Callable

import pytest

from tests.conftest import EXPLORED
from tests.unit.coordination.explore import Exploration

Report = Callable[[str, Exploration], None]


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """Keeps a line for each model; they are printed when all tests have run."""

    def keep(name: str, explored: Exploration) -> None:
        how = ", ".join(f"{count} {end}" for end, count in sorted(explored.ends.items()))
        record_property(EXPLORED, f"model {name}: {explored.states} states, {explored.ends.total()} ends ({how})")

    return keep
