"""Every place where a saga can be killed is listed, and some run passes it."""

import subprocess
import sys
from pathlib import Path

from libs.runtime.clock import ManualClock
from libs.runtime.failpoints import declared
from libs.saga.definition import NOTHING_TO_UNDO, Saga, Step
from libs.saga.executor import Executor, failpoints_of
from libs.saga.memory_log import MemorySagaLog
from tests.unit.saga.killed import CHECKOUT
from tests.unit.saga.sagas import command

ROOT = Path(__file__).parents[3]


def test_the_places_are_around_each_call_and_each_durable_write() -> None:
    places = failpoints_of(CHECKOUT)
    assert len(set(places)) == len(places) == 2 * (6 + 6)
    assert "saga.before-call:charge.undo" in places
    assert "saga.after-write:PivotDecided" in places
    assert not any(place.endswith("confirm.undo") for place in places)


def test_a_step_with_nothing_to_undo_has_no_undo_to_die_in() -> None:
    check = Saga("check", (Step("look", command("look"), NOTHING_TO_UNDO),))
    assert not any("undo:" in place or place.endswith(".undo") for place in failpoints_of(check))


def test_an_executor_declares_the_places_of_its_sagas() -> None:
    Executor({"checkout": CHECKOUT}, {}, MemorySagaLog(), ManualClock())
    assert set(failpoints_of(CHECKOUT)) <= set(declared())


def test_some_run_dies_at_every_place() -> None:
    command_line = [sys.executable, "-m", "tests.unit.saga.killed"]
    ran = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == list(failpoints_of(CHECKOUT))
