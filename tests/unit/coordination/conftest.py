"""Says at the end of a run how much was explored; a search that suddenly has little to search is no search."""

import pytest

from tests.unit.coordination.explore import Exploration

EXPLORED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[EXPLORED] = []


@pytest.fixture
def report(request: pytest.FixtureRequest) -> "Report":
    return Report(request.config.stash[EXPLORED])


class Report:
    """Keeps one line for each model; they are printed when all tests have run."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self, name: str, explored: Exploration) -> None:
        how = ", ".join(f"{count} {end}" for end, count in sorted(explored.ends.items()))
        self._lines.append(f"model {name}: {explored.states} states, {explored.ends.total()} ends ({how})")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(EXPLORED, [])
    if lines:
        terminalreporter.section("every interleaving")
        for line in lines:
            terminalreporter.write_line(line)
