"""`dockyard up`, `down`, `status`, `logs` as people and programs run them."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dockyard.local.processes import Identity, identify, is_alive
from dockyard.local.services import at_offset, free_offset

DOCKYARD = (sys.executable, "-m", "dockyard")
COMMAND_SECONDS = 60


@pytest.fixture
def home(server_directory: Path) -> Iterator[Path]:
    path = server_directory / f"home-{secrets.token_hex(4)}"
    yield path
    dockyard("down", "--home", str(path))


def environ(**more: str) -> dict[str, str]:
    """Ours without what would configure Dockyard."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DOCKYARD_")} | more


def dockyard(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*DOCKYARD, *arguments],
        env=environ(**more),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def answer(*arguments: str, **more: str) -> dict[str, Any]:
    """What a command that succeeds answers in JSON; it writes nothing else to standard output."""
    done = dockyard(*arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def pids(status: dict[str, Any]) -> list[Identity]:
    found = [identify(pid) for pid in (status["supervisor_pid"], *(one["pid"] for one in status["processes"]))]
    assert all(found)
    return [one for one in found if one]


def one_sentence(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The complaint of a command that could not: its last line, after what it did until then."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    *before, sentence = done.stderr.strip().splitlines()
    assert all(line.startswith("· ") for line in before), done.stderr
    return sentence


def test_an_instance_lives_from_up_to_down(home: Path) -> None:
    here = ("--home", str(home))
    offset = free_offset(14_000)

    up = answer("up", "--detach", "--port-offset", str(offset), *here)
    assert not up["already_up"]
    assert up["services"]["order"] == {
        "url": f"http://127.0.0.1:{8101 + offset}",
        "grpc": f"127.0.0.1:{9101 + offset}",
    }
    assert answer("up", *here)["already_up"], "the second start finds it"

    status = answer("status", *here)
    assert status["phase"] == "up"
    assert {one["name"]: one["phase"] for one in status["processes"]} == dict.fromkeys(
        ("inventory", "order", "payment", "postgres", "psp", "redis", "shipping"), "ready"
    )
    shown = dockyard("status", *here).stdout
    assert "up in" in shown and "postgres" in shown

    lines = dockyard("logs", "order", "--json", *here).stdout.splitlines()
    assert "ready" in {json.loads(line)["message"] for line in lines}
    assert " INFO ready http_port=" in dockyard("logs", "order", *here).stdout
    assert len(dockyard("logs", "order", "-n", "1", *here).stdout.splitlines()) == 1

    running = pids(status)
    assert answer("down", *here)["was_up"]
    assert not any(map(is_alive, running))
    assert not answer("down", *here)["was_up"]
    assert dockyard("status", *here).returncode == 1


@contextmanager
def foreground(home: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [*DOCKYARD, "up", "--home", str(home), *arguments],
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_leaves_no_process_behind(home: Path) -> None:
    with foreground(home, "--json", "--port-offset", str(free_offset(14_500))) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["already_up"] is False
        status = answer("status", "--home", str(home))
        running = pids(status)
        assert len(running) == 8
        payment = next(one["pid"] for one in status["processes"] if one["name"] == "payment")
        assert process.stderr is not None
        os.kill(payment, signal.SIGKILL)
        while "payment ended (killed by SIGKILL) and is started again" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=COMMAND_SECONDS)
        assert process.returncode == 0
        assert said.endswith("· stopping\n")
    assert not any(map(is_alive, running))


def test_ctrl_c_while_it_starts_leaves_no_process_behind(home: Path) -> None:
    with foreground(home, "--port-offset", str(free_offset(15_000))) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("· starting"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=COMMAND_SECONDS)
        assert process.returncode == 0
    assert dockyard("status", "--home", str(home)).stdout.startswith("nothing is up")


def test_a_busy_port_is_named(home: Path) -> None:
    offset = free_offset(16_500)
    port = at_offset(offset)["payment"].http_port
    with socket.create_server(("127.0.0.1", port)):
        done = dockyard("up", "-d", "--home", str(home), "--port-offset", str(offset))
    assert one_sentence(done, 3) == (
        f"port {port} (payment HTTP) on 127.0.0.1 is in use: stop who uses it, or move all ports with --port-offset N"
    )


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    done = dockyard("up", "-d", "--home", str(tmp_path / "nowhere" / "home"))
    assert "nowhere does not exist: create it, or choose another with --home" in one_sentence(done, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as somebody else")
def test_a_directory_that_the_servers_may_not_enter_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    done = dockyard("up", "-d", "--home", str(tmp_path / "home"), "--port-offset", str(free_offset(17_000)))
    assert "may not enter" in one_sentence(done, 3)
    assert tmp_path.stat().st_mode & 0o777 == 0o700, "somebody's directory is left as it is"


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DOCKYARD_POSTGRES_URL", "postgresql://me:hidden@127.0.0.1:1/postgres"),
        ("DOCKYARD_REDIS_URL", "redis://:hidden@127.0.0.1:1/0"),
    ],
)
def test_a_dead_server_is_named_without_its_password(home: Path, variable: str, url: str) -> None:
    arguments = ("up", "-d", "--home", str(home), "--port-offset", str(free_offset(17_000)))
    sentence = one_sentence(dockyard(*arguments, **{variable: url}), 3)
    assert "127.0.0.1:1" in sentence and f"start it, or correct or unset {variable}" in sentence
    assert "hidden" not in sentence


def test_a_variable_that_would_be_overridden_is_named(home: Path) -> None:
    done = dockyard("up", "-d", "--home", str(home), "--port-offset", "17000", DOCKYARD_ORDER_GRPC_PORT="1")
    assert one_sentence(done, 3).startswith("DOCKYARD_ORDER_GRPC_PORT is decided by `dockyard up` itself")


@pytest.mark.parametrize(
    "arguments",
    [("up", "--port-offset", "-1"), ("up", "--port-offset", "50001"), ("up", "--colour", "blue"), ("logs",), ("jump",)],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert dockyard(*arguments).returncode == 2


def test_an_unknown_log_says_which_there_are(home: Path) -> None:
    done = dockyard("logs", "kitchen", "--home", str(home))
    assert done.returncode == 2
    assert done.stderr.startswith("there is no log of 'kitchen' in")


def test_the_command_line_answers_fast_because_it_imports_little() -> None:
    heavy = ["sqlalchemy", "grpc", "fastapi", "asyncpg", "redis", "opentelemetry", "alembic", "rich.table"]
    code = "import dockyard.cli, sys; dockyard.cli.application(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(done.stdout.split())
