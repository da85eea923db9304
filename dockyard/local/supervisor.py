"""The supervisor of an instance: starts it, keeps it alive, fulfils wishes, and leaves no process behind.

    leftovers → ports → servers → databases → schemas → services → up … → order → the other services → servers

It runs inside `dockyard up`, or in a session of its own (see dockyard.local.detached). If it is killed, the kernel
ends its children (see dockyard.local.children).
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from dockyard.local import leftovers, logfiles, state, wishes
from dockyard.local.home import Home
from dockyard.local.keeper import Exits, Keeper, Ward
from dockyard.local.options import Options
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.processes import identify
from dockyard.local.provisions import Provisions, check_redis
from dockyard.local.services import Service, at_offset, check_not_set, settings
from dockyard.local.state import Running, State
from dockyard.local.wards import (
    check_ports,
    check_secrets,
    choose,
    postgres_plan,
    postgres_ward,
    redis_plan,
    redis_ward,
    service_ward,
)
from libs.runtime.clock import Clock
from libs.telemetry.logs import get_logger

LOGS_CHECKED_SECONDS = 10.0
# The order service first: what it is about to finish needs the others.
STOP_STAGES = (("order",), ("inventory", "payment", "shipping"), ("psp",), ("redis",), ("postgres",))
SERVERS = frozenset({"redis", "postgres"})

log = get_logger(__name__)

Report = Callable[[str], None]


class AlreadyUp(Exception):
    """Another supervisor holds this home."""


class Supervisor:
    """One run of one instance. `report` is told in a few words what happens."""

    def __init__(self, home: Home, options: Options, clock: Clock, report: Report) -> None:
        self._home = home
        self._options = options
        self._clock = clock
        self._report = report
        self._exits = Exits()
        self._wished = asyncio.Event()
        self._keepers: dict[str, Keeper] = {}
        self._environ = {name: dict(options.environ.get(name, {})) for name in options.services}
        self._once = {name: dict(options.once.get(name, {})) for name in options.services}
        self._state = State()
        self._main: asyncio.Task[None] | None = None
        self._stopping = False

    async def run(self, up: Callable[[State], None]) -> None:
        """Starts everything, calls `up`, and returns when it was asked to stop and everything is gone.

        Raises AlreadyUp, EnvironmentProblem.
        """
        self._home.create()
        with self._home.held() as ours, self._signals():
            if not ours:
                raise AlreadyUp
            self._state = state.load(self._home)
            leftovers.end(self._state, self._clock)
            try:
                await self._until_stopped(up)
            finally:
                await self._stop_all()
                wishes.forget(self._home)
                self._remember(self._state.stopped())
                log.info("down")

    def stop(self) -> None:
        """Asks the run to end; the second time it shall not wait for anything."""
        if self._stopping:
            for name in self._keepers.keys() - SERVERS:
                self._keepers[name].kill()
            return
        self._stopping = True
        if self._main is not None:
            self._main.cancel()

    async def _until_stopped(self, up: Callable[[State], None]) -> None:
        """Returns after `stop`. The processes still run then, but nobody starts them again."""
        self._main = asyncio.current_task()
        assert self._main is not None
        try:
            async with asyncio.TaskGroup() as group:
                await self._start(group)
                self._remember(replace(self._state, phase="up"))
                log.info("up")
                up(self._state)
                # Until `stop` cancels us.
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            self._main.uncancel()
        except BaseExceptionGroup as problems:
            raise _first(problems) from problems

    async def _start(self, group: asyncio.TaskGroup) -> None:
        offset = self._state.kept.port_offset if self._options.port_offset is None else self._options.port_offset
        services = {name: one for name, one in at_offset(offset).items() if name in self._options.services}
        for name in services:
            check_not_set(settings(name, at_offset(offset), "", "", ""), os.environ)
        check_ports(services)
        logfiles.bound(self._home.logs)
        self._remember(
            replace(
                self._state,
                kept=self._state.kept.at_offset(offset),
                phase="starting",
                supervisor=identify(os.getpid()),
                otlp_endpoint=self._options.otlp_endpoint,
                running={},
            )
        )
        group.create_task(self._bound_logs())
        group.create_task(self._fulfil_wishes())
        await self._start_servers(group)
        await self._provide_databases(tuple(services))
        await self._start_services(group, services)

    async def _start_servers(self, group: asyncio.TaskGroup) -> None:
        """Starts the servers that were not given, both at once."""
        options, kept = self._options, self._state.kept
        if not options.postgres_url:
            check_secrets(self._home, kept)
        # Saved before they are used: data whose password is lost is lost.
        kept = choose(kept)
        self._remember(replace(self._state, kept=kept))
        own: list[Keeper] = []
        redis_url, postgres_url = options.redis_url, options.postgres_url
        if redis_url:
            await check_redis(redis_url)
        else:
            redis_url = redis_plan(self._home, kept).url
            own.append(self._keep(group, redis_ward(redis_plan(self._home, kept))))
            # It starts while the data directory is made.
            await asyncio.sleep(0)
        if not postgres_url:
            plan = postgres_plan(self._home, kept)
            postgres_url = plan.admin_url
            own.append(self._keep(group, postgres_ward(self._home, plan, self._report)))
        for keeper in own:
            await keeper.first_ready()
        self._remember(replace(self._state, redis_url=redis_url, postgres_url=postgres_url))

    async def _provide_databases(self, names: tuple[str, ...]) -> None:
        provisions = Provisions(self._home, self._exits, self._report)
        suffix = (
            f"_{self._state.kept.port_offset}" if self._options.postgres_url and self._state.kept.port_offset else ""
        )
        kept = provisions.with_passwords(self._state.kept, names)
        self._remember(replace(self._state, kept=kept))
        urls = await provisions.provide(self._state.postgres_url, names, kept.role_passwords, suffix)
        self._remember(replace(self._state, database_urls=dict(urls)))

    async def _start_services(self, group: asyncio.TaskGroup, services: Mapping[str, Service]) -> None:
        """Starts all services at once; returns when all are ready."""
        everywhere = at_offset(self._state.kept.port_offset)
        decided = {
            name: settings(
                name,
                everywhere,
                self._state.database_urls[name],
                self._state.redis_url,
                self._options.otlp_endpoint,
            )
            for name in services
        }
        self._report("starting " + ", ".join(services))
        keepers = [
            self._keep(group, service_ward(one, self._home, partial(self._variables, name, decided[name])))
            for name, one in services.items()
        ]
        for keeper in keepers:
            await keeper.first_ready()

    def _variables(self, name: str, decided: Mapping[str, str]) -> dict[str, str]:
        """The settings of the service's next process."""
        once, self._once[name] = self._once[name], {}
        return {**decided, **self._environ[name], **once}

    def _keep(self, group: asyncio.TaskGroup, ward: Ward) -> Keeper:
        keeper = self._keepers[ward.name] = Keeper(ward, self._exits, self._clock, self._on_change)
        group.create_task(keeper.run())
        return keeper

    def _on_change(self, name: str, running: Running) -> None:
        self._remember(self._state.with_running(name, running))
        if running.phase == "restarting":
            self._report(f"{name} ended ({running.last_exit}) and is started again")

    def _remember(self, changed: State) -> None:
        self._state = changed
        state.save(self._home, changed)

    async def _bound_logs(self) -> None:
        while True:
            await self._clock.sleep(LOGS_CHECKED_SECONDS)
            logfiles.bound(self._home.logs)

    async def _fulfil_wishes(self) -> None:
        while True:
            await self._wished.wait()
            self._wished.clear()
            for name, wish in wishes.load(self._home).items():
                keeper = self._keepers.get(name)
                if keeper is not None and wish.serial > keeper.running.serial:
                    if wish.environ is not None:
                        self._environ[name] = wish.environ
                    self._once[name] = wish.once
                    await keeper.fulfil(wish.serial, wanted=wish.wanted)

    async def _stop_all(self) -> None:
        self._stopping = True
        if self._keepers:
            self._report("stopping")
            self._remember(replace(self._state, phase="stopping"))
        for stage in STOP_STAGES:
            await asyncio.gather(*(self._keepers[name].stop() for name in stage if name in self._keepers))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        reactions = {
            signal.SIGCHLD: self._exits.child_ended,
            signal.SIGINT: self.stop,
            signal.SIGTERM: self.stop,
            # The terminal was closed.
            signal.SIGHUP: self.stop,
            signal.SIGUSR1: self._wished.set,
        }
        for number, reaction in reactions.items():
            loop.add_signal_handler(number, reaction)
        try:
            yield
        finally:
            for number in reactions:
                loop.remove_signal_handler(number)


def _first(problems: BaseExceptionGroup[BaseException]) -> BaseException:
    """The problem that people can do something about, if there is one among them."""
    found: BaseException | None = problems.subgroup(EnvironmentProblem)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found or problems
