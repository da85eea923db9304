"""What `dockyard demo`, `bench` and `audit` say of each style."""

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dockyard.audit.rules import Violation
from dockyard.audit.run import Report
from dockyard.cli import application
from dockyard.commands import audit, demo
from dockyard.load.demo import Story
from dockyard.load.drive import Ended, Tally
from dockyard.load.orders import Coordination, Draw, Lines
from dockyard.local.options import Options, allowing_naive

CHECKED = {"orders": 2, "parked": 0}
LOST = Violation("G4", "money-kept", ("ord_1", "ch_1"), "pending, and kept 250 EUR", "naive")
VANISHED = Violation("G5", "stock-lost", ("lamp",), "7 on hand")


def story(coordination: str, *violations: Violation) -> Story:
    orders = Draw(1, {}, Lines.ONE, "run", coordination)
    tally = Tally(
        ended=[Ended(orders.next(), "ord_0", "confirmed", "", 0.1, 1)],
        failed=[(orders.next(), "ord_1 is still pending after 15 s")] if violations else [],
    )
    return Story(coordination, tally, (("payment", 7),), None, Report(True, CHECKED, violations), 1.0)


def shown(told: Story) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(demo._shown(told, demo._summary(told, 2)))
    return capture.get()


def test_the_demo_says_how_the_orders_were_coordinated_and_by_style_what_is_wrong() -> None:
    summary = demo._summary(story("naive", LOST, LOST, VANISHED), 2)
    assert summary["coordination"] == "naive"
    assert summary["violations"] == 3
    assert summary["violations_by_coordination"] == {"naive": 2, "": 1}


def test_naive_is_said_to_fail_as_expected_and_names_what_was_lost() -> None:
    said = shown(story("naive", LOST, VANISHED))
    assert "2 violations (1 naive, 1 of no order): as expected of calls in a row" in said
    assert "lost: ord_1 is still pending after 15 s" in said
    assert "ord_1 ch_1: pending, and kept 250 EUR" in said


@pytest.mark.parametrize("style", ["orchestrated", "choreographed", "tcc", "twophase"])
def test_no_other_style_is_excused(style: str) -> None:
    assert "as expected" not in shown(story(style, LOST))
    assert "no violation: the guarantees hold" in shown(story(style))


def test_each_kind_of_violation_is_counted_and_shown_once() -> None:
    said = shown(story("naive", *([LOST] * 30), VANISHED))
    assert said.count("money-kept") == said.count("stock-lost") == 1
    assert "│ 30 " in said


def test_a_terminal_is_not_flooded() -> None:
    assert demo._some([f"line {number}" for number in range(30)])[-1] == "… and 20 more, --json has all"
    assert len(demo._some(["line"] * 30)) == demo.SHOWN_MAX + 1


def test_the_audit_shows_the_style_of_each_violation() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(audit._shown(Report(True, CHECKED, (LOST, VANISHED))))
    assert "naive" in capture.get()


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_an_unknown_style_is_wrong_usage(command: str) -> None:
    done = CliRunner().invoke(application(), [command, "--coordination", "sideways"])
    assert done.exit_code == 2
    assert "twophase" in done.output


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_the_help_says_that_naive_is_expected_to_fail(command: str) -> None:
    said = CliRunner().invoke(application(), [command, "--help"], env={"COLUMNS": "200"}).output
    assert "naive is expected to fail" in said
    assert "Exit code 2 when naive orders are asked of a platform" in said
    assert all(style in said for style in Coordination)


def test_naive_orders_are_allowed_beside_what_else_is_set() -> None:
    options = Options(environ={"order": {"DOCKYARD_ORDER_LOG_LEVEL": "DEBUG"}, "psp": {"DOCKYARD_PSP_SEED": "1"}})
    assert allowing_naive(options).environ == {
        "order": {"DOCKYARD_ORDER_LOG_LEVEL": "DEBUG", "DOCKYARD_ORDER_ALLOW_NAIVE": "true"},
        "psp": {"DOCKYARD_PSP_SEED": "1"},
    }
