"""A service that cannot do its work says so in one message and does not start."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dockyard.local.ports import free_port
from tests.conftest import MakeDatabase

ROOT = Path(__file__).parents[2]
START_SECONDS = 30
NOBODY = "postgresql://nobody:secret-word@127.0.0.1:1/nothing"

SERVICES: dict[str, dict[str, str]] = {
    "order": {"INVENTORY_ADDRESS": "127.0.0.1:1", "PAYMENT_ADDRESS": "127.0.0.1:1", "SHIPPING_ADDRESS": "127.0.0.1:1"},
    "inventory": {},
}


def start(service: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    prefix = f"DOCKYARD_{service.upper()}_"
    given = {"HTTP_PORT": str(free_port()), "GRPC_PORT": str(free_port()), **SERVICES[service], **settings}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DOCKYARD_")}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}.main"],
        cwd=ROOT,
        env=environ | {prefix + name: value for name, value in given.items()},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_database_that_is_not_there_is_one_sentence(service: str) -> None:
    ended = start(service, {"DATABASE_URL": NOBODY})
    assert ended.returncode == 3
    assert f"{service} cannot start: " in ended.stderr
    assert "cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret-word" not in ended.stderr


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("wrong", ["database", "role", "password"])
async def test_a_database_that_does_not_let_us_in_is_one_sentence(
    service: str, wrong: str, make_database: MakeDatabase
) -> None:
    parts = urlsplit(await make_database(f"shut_{service}"))
    _, _, where = parts.netloc.rpartition("@")
    url = {
        "database": parts._replace(path="/nowhere"),
        "role": parts._replace(netloc=f"nobody:secret-word@{where}"),
        "password": parts._replace(netloc=f"{parts.username}:secret-word@{where}"),
    }[wrong].geturl()
    ended = start(service, {"DATABASE_URL": url})
    assert ended.returncode == 3
    assert "does not let us in" in ended.stderr
    assert "check its database_url" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret-word" not in ended.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_every_problem_with_the_settings_is_told_at_once(service: str) -> None:
    ended = start(service, {"DATABASE_URL": "mysql://x", "HTP_PORT": "1", "LOG_LEVEL": "LOUD"})
    assert ended.returncode == 2
    prefix = f"DOCKYARD_{service.upper()}_"
    for name in ("DATABASE_URL", "HTP_PORT", "LOG_LEVEL"):
        assert f"{prefix}{name}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("service", SERVICES)
async def test_a_stale_schema_says_which_command_mends_it(service: str, make_database: MakeDatabase) -> None:
    ended = start(service, {"DATABASE_URL": await make_database(f"stale_{service}")})
    assert ended.returncode == 3
    assert f"python -m services.{service}.main migrate" in ended.stderr
    assert "Traceback" not in ended.stderr
