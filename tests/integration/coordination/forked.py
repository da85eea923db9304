"""Services as processes that start in a fraction of a second, so that hundreds of them can be killed.

A server process imports everything once and forks each service from there (`multiprocessing`'s forkserver); what runs
in the child is the service's own main. It dies by its failpoint, or by `kill`, and leaves nothing behind.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx

from dockyard.local.waiting import wait_until
from libs.runtime import ablation
from libs.runtime.clock import SystemClock

READY_SECONDS = 30.0
DEATH_SECONDS = 25.0
SERVICES = ("psp", "inventory", "payment", "shipping", "order")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([f"services.{service}.main" for service in SERVICES])


def _serve(service: str, environ: Mapping[str, str], log: str) -> None:
    """The child: the service's main, as its own process would run it."""
    os.environ.update(environ)
    # Decided at import, which the server process did for all.
    ablation.LEFT_OUT = ablation.left_out(os.environ)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    main = import_module(f"services.{service}.main")
    settings = getattr(main, f"{service.title()}Settings")
    sys.exit(main.main(main.Process(service, main.PREFIX, settings, main.MIGRATIONS, main.build), []))


class Forked:
    """One service; `start` it again after it died. It runs without the part named in `without`."""

    def __init__(self, service: str, environ: Mapping[str, str], url: str, log: Path) -> None:
        self.service = service
        self._environ = dict(environ)
        self._url = url
        self._log = log
        self.without = ""
        self._process: BaseProcess | None = None

    def start(self, failpoint: str = "", **settings: str) -> None:
        """Returns when it is ready, or has died of its failpoint before; `settings` are further fields of its own."""
        assert self._process is None or not self._process.is_alive(), f"{self.service} is running"
        fields = {"failpoint": failpoint, **settings}
        environ = self._environ | {f"DOCKYARD_{self.service.upper()}_{name.upper()}": fields[name] for name in fields}
        environ[ablation.VARIABLE] = self.without
        self._process = _context.Process(target=_serve, args=(self.service, environ, str(self._log)), daemon=True)
        self._process.start()
        assert wait_until(self._ready_or_dead, SystemClock(), READY_SECONDS), f"{self.service} does not get ready"

    def _ready_or_dead(self) -> bool:
        assert self._process is not None
        if not self._process.is_alive():
            return True
        try:
            return httpx.get(f"{self._url}/readyz", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def died(self, seconds: float = DEATH_SECONDS) -> bool:
        """Whether it dies of its failpoint within the time."""
        assert self._process is not None
        self._process.join(seconds)
        return self._process.exitcode == -signal.SIGKILL

    def kill(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(DEATH_SECONDS)
