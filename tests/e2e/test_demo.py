"""`dockyard demo` in every style, through both of its kills; and the naive one, which must fail."""

import json
import subprocess
import sys
from typing import Any

import pytest

from dockyard.load.orders import Coordination
from dockyard.local.options import Options
from dockyard.local.platform import Platform
from tests.conftest import StartPlatform

HONEST = [style for style in Coordination if style is not Coordination.NAIVE]
ORDERS = 40
DEMO_SECONDS = 300


@pytest.fixture(scope="module")
def stage(start_platform: StartPlatform) -> Platform:
    """A platform of its own: what naive orders leave behind stays with whoever audits it next."""
    return start_platform(Options())


def dockyard(platform: Platform, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dockyard", *arguments, "--json", "--home", str(platform.home.path)],
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )


def demo(platform: Platform, style: str) -> "subprocess.CompletedProcess[str]":
    return dockyard(platform, "demo", "--coordination", style, "--orders", str(ORDERS))


@pytest.mark.parametrize("style", HONEST)
def test_every_order_ends_as_it_must_though_two_services_are_killed(style: str, stage: Platform) -> None:
    done = demo(stage, style)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["coordination"], said["placed"], said["ended"]) == (style, ORDERS, ORDERS)
    assert (said["violations"], said["parked"], said["surprises"], said["settled"]) == (0, 0, [], True)
    assert said["killed"] == ["payment", "order"]


# After the others: its violations stay.
def test_calls_in_a_row_are_refused_until_they_are_allowed_and_then_lose_money(stage: Platform) -> None:
    refused = demo(stage, Coordination.NAIVE)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "dockyard up --allow-naive" in refused.stderr.splitlines()[-1]

    allowed = dockyard(stage, "up", "--allow-naive")
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads(allowed.stdout)["already_up"]

    done = demo(stage, Coordination.NAIVE)
    assert done.returncode == 1, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["violations"] > 0
    assert set(said["violations_by_coordination"]) == {Coordination.NAIVE}
    # Payment was killed at their charge: their stock is taken, and nobody knows of them any more.
    assert {one["rule"] for one in said["found"]} >= {"abandoned", "stock-kept"}
