"""An instance of the platform as programs use it: start it, find its parts, end or restart one, stop it all.

platform = Platform.open(home)
platform.up()
pid = platform.kill("payment")               # SIGKILL; the supervisor starts it again
platform.wait_ready("payment", not_pid=pid)
platform.down()
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dockyard.local import leftovers, state, wishes
from dockyard.local.detached import Briefing, launch
from dockyard.local.home import Home, default_home
from dockyard.local.options import Options, from_environ
from dockyard.local.ports import HOST
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.processes import Identity, gone, is_alive, send
from dockyard.local.services import Service, at_offset, settings
from dockyard.local.state import Running, State
from dockyard.local.waiting import wait_until
from libs.kernel.errors import NotFound, Unavailable
from libs.runtime.clock import Clock, SystemClock

# A service drains 10 s at most, the order service before the others, then the servers stop.
DOWN_SECONDS = 60.0
READY_SECONDS = 60.0


def _nothing(_: str) -> None:
    """Reports to nobody."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens."""

    host: str
    http_port: int
    grpc_port: int


class Platform:
    """One instance, by its home. Every answer is read from the home's state: any process may ask."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._supervisor: subprocess.Popen[bytes] | None = None

    @classmethod
    def open(cls, home: Path | None = None, clock: Clock | None = None) -> "Platform":
        """The instance in `home`, by default the user's; nothing need be there yet."""
        return cls(Home((home or default_home()).absolute()), clock or SystemClock())

    @property
    def home(self) -> Home:
        return self._home

    @property
    def state(self) -> State:
        """What the instance says about itself now. Raises EnvironmentProblem."""
        return state.load(self._home)

    def is_up(self) -> bool:
        """Whether its supervisor lives, though it may still be starting."""
        supervisor = self.state.supervisor
        return supervisor is not None and is_alive(supervisor)

    def up(
        self,
        options: Options | None = None,
        *,
        tethered: bool = False,
        report: Callable[[str], None] = _nothing,
    ) -> bool:
        """Starts it in the background and returns when it is ready; False when it was up already.

        `tethered`: it stops when this Platform is dropped or this process ends, however that happens. Raises
        EnvironmentProblem.
        """
        options = options or from_environ(os.environ)
        started, process = launch(self._home, Briefing(options, tethered), report)
        if started:
            # The one before it, if it was ours, has ended: it held the home.
            self._forget_supervisor()
            self._supervisor = process
        else:
            self._join(options)
        return started

    def _join(self, options: Options) -> None:
        """Returns when the instance that somebody else started is ready, and is the one that is wanted."""
        self._wait(lambda: self.state.phase == "up" or not self.is_up(), READY_SECONDS, "the platform is not ready")
        found = self.state.kept.port_offset
        if not self.is_up():
            raise EnvironmentProblem(
                f"another start of {self._home.path} failed just now (see {self._home.log('supervisor')}): try again"
            )
        if options.port_offset not in (None, found):
            raise EnvironmentProblem(
                f"{self._home.path} is already up with port offset {found}: run `dockyard down` first, "
                f"or start another instance with --home"
            )

    def down(self) -> bool:
        """Stops it and returns when all its processes are gone; False when nothing was running."""
        supervisor = self.state.supervisor
        asked = supervisor is not None and send(supervisor, signal.SIGTERM)
        if supervisor is not None and gone([supervisor], self._clock, DOWN_SECONDS):
            send(supervisor, signal.SIGKILL)
        self._forget_supervisor()
        found = self.state
        left = leftovers.found(found)
        leftovers.end(found, self._clock)
        if found.phase != "down":
            state.save(self._home, found.stopped())
        return asked or bool(left)

    def _forget_supervisor(self) -> None:
        """Reaps it if it is our child."""
        if self._supervisor is not None:
            if self._supervisor.stdin is not None:
                self._supervisor.stdin.close()
            self._supervisor.wait()
            self._supervisor = None

    # Its parts.

    @property
    def services(self) -> Mapping[str, Service]:
        """Every service with its ports, whether it runs or not."""
        return at_offset(self.state.kept.port_offset)

    @property
    def urls(self) -> Mapping[str, str]:
        """The HTTP base URL of each service."""
        return {name: one.url for name, one in self.services.items()}

    @property
    def addresses(self) -> Mapping[str, Address]:
        """Host and ports of each service; a gRPC port of 0 means that it has none."""
        return {name: Address(HOST, one.http_port, one.grpc_port) for name, one in self.services.items()}

    @property
    def database_urls(self) -> Mapping[str, str]:
        """Each service's own database, with its password."""
        return self.state.database_urls

    @property
    def redis_url(self) -> str:
        return self.state.redis_url

    def environment(self, name: str) -> dict[str, str]:
        """The variables that the platform starts a service with."""
        found = self.state
        return settings(name, self.services, found.database_urls[name], found.redis_url, found.otlp_endpoint)

    def running(self, name: str) -> Running:
        """How a service or a server is. Raises NotFound."""
        found = self.state.running.get(name)
        if found is None:
            raise NotFound(f"{name} is not part of what runs in {self._home.path}")
        return found

    def pid(self, name: str) -> int:
        """The process id of a service or of a server of ours. Raises NotFound when it is not running now."""
        return self._process(name).pid

    def _process(self, name: str) -> Identity:
        process = self.running(name).process
        if process is None or not is_alive(process):
            raise NotFound(f"{name} is not running now")
        return process

    # Breaking and mending.

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signals a service or server of ours; the pid that it had. Raises NotFound."""
        process = self._process(name)
        if not send(process, number):
            raise NotFound(f"{name} ended just now")
        return process.pid

    def restart(
        self, name: str, environ: Mapping[str, str] | None = None, once: Mapping[str, str] | None = None
    ) -> int:
        """Ends a service gently and starts it again; its new pid when it is ready.

        `environ` replaces the further variables it had; `once` reaches only the next process, not its successors.
        """
        self._wish(name, wanted=True, environ=environ, once=once)
        return self.wait_ready(name)

    def stop(self, name: str) -> None:
        """Ends a service gently and leaves it down until `restart`."""
        self._wish(name, wanted=False)

    def _wish(
        self,
        name: str,
        *,
        wanted: bool,
        environ: Mapping[str, str] | None = None,
        once: Mapping[str, str] | None = None,
    ) -> None:
        """Tells the supervisor and returns when it has ended the present process."""
        self.running(name)
        all_wishes = wishes.load(self._home)
        serial = all_wishes[name].serial + 1 if name in all_wishes else 1
        wish = wishes.Wish(serial, wanted, None if environ is None else dict(environ), dict(once or {}))
        wishes.save(self._home, all_wishes | {name: wish})
        supervisor = self.state.supervisor
        if supervisor is None or not send(supervisor, signal.SIGUSR1):
            raise Unavailable(f"the platform in {self._home.path} is not up")
        self._wait(lambda: self.running(name).serial >= serial, READY_SECONDS, f"{name} could not be ended")

    def wait_ready(self, name: str, *, not_pid: int = 0, seconds: float = READY_SECONDS) -> int:
        """Returns the pid of a service when it is ready, and is not `not_pid` any more. Raises Unavailable."""

        def ready() -> bool:
            one = self.running(name)
            return one.phase == "ready" and one.process is not None and one.process.pid != not_pid

        self._wait(ready, seconds, f"{name} is not ready")
        process = self.running(name).process
        assert process is not None
        return process.pid

    def _wait(self, done: Callable[[], bool], seconds: float, otherwise: str) -> None:
        if not wait_until(done, self._clock, seconds):
            raise Unavailable(f"{otherwise} after {seconds:.0f} s; see {self._home.logs}")
