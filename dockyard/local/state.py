"""What an instance remembers: passwords and ports from start to start, and which processes run now.

One file, readable by its owner only, replaced atomically: a reader never sees half of it.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from dockyard.local.home import Home
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.processes import Identity

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays from start to start. Ports of 0 are not chosen yet."""

    port_offset: int = 0
    postgres_port: int = 0
    postgres_password: str = field(default="", repr=False)
    redis_port: int = 0
    redis_password: str = field(default="", repr=False)
    # Of each service's own role, by service.
    role_passwords: dict[str, str] = field(default_factory=dict, repr=False)

    def at_offset(self, offset: int) -> "Kept":
        """The same when ports stay, without the servers' ports when they move."""
        if offset == self.port_offset:
            return self
        return replace(self, port_offset=offset, postgres_port=0, redis_port=0)


@dataclass(frozen=True, slots=True)
class Running:
    """One process that the supervisor keeps alive.

    `phase` is starting, ready, restarting or stopped. `since_unix_ms` is the start of the present process. `serial`
    counts the wishes (see dockyard.local.wishes) that have been fulfilled.
    """

    phase: str
    process: Identity | None = None
    since_unix_ms: int = 0
    restarts: int = 0
    last_exit: str = ""
    serial: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Everything an instance knows about itself."""

    format: int = FORMAT
    kept: Kept = field(default_factory=Kept)
    # down, starting, up or stopping
    phase: str = "down"
    supervisor: Identity | None = None
    redis_url: str = field(default="", repr=False)
    postgres_url: str = field(default="", repr=False)
    database_urls: dict[str, str] = field(default_factory=dict, repr=False)
    otlp_endpoint: str = ""
    # By name: the servers that are ours, and the services.
    running: dict[str, Running] = field(default_factory=dict)

    def with_running(self, name: str, running: Running) -> "State":
        return replace(self, running=self.running | {name: running})

    def stopped(self) -> "State":
        """The same instance when nothing runs any more."""
        return replace(self, phase="down", supervisor=None, running={})


def load(home: Home) -> State:
    """What was saved last; a fresh state when nothing was. Raises EnvironmentProblem."""
    try:
        return msgspec.json.decode(home.state.read_bytes(), type=State)
    except FileNotFoundError:
        return State()
    except PermissionError:
        raise EnvironmentProblem(
            f"{home.state} is not yours to read: use the account that started it, or another --home"
        ) from None
    except NotADirectoryError:
        raise EnvironmentProblem(f"home {home.path} is not a directory: choose another with --home") from None
    except msgspec.MsgspecError as error:
        raise EnvironmentProblem(
            f"{home.state} is damaged ({error}): it holds the passwords, so restore it or choose another --home"
        ) from None


def save(home: Home, state: State) -> None:
    """Replaces the saved state. It survives a power cut: without its passwords the databases would be lost."""
    write_private(home.state, msgspec.json.encode(state))


def write_private(path: Path, content: bytes) -> None:
    """Replaces the file atomically; only its owner may read it."""
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
