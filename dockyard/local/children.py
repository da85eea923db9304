"""Starting processes that never outlive the one that started them, not even when that one is killed."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockyard.local.account import Account

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to start. Output is appended to `log`; `on_orphaned` is the signal it gets when its parent is gone."""

    argv: Sequence[str]
    log: Path
    on_orphaned: signal.Signals
    environ: Mapping[str, str]
    directory: Path | None = None
    account: Account | None = None
    stdin: str | None = None


def start(program: Program) -> subprocess.Popen[bytes]:
    """Starts the program in a process group of its own: a Ctrl-C at the terminal reaches only us, and we stop it."""
    account = program.account
    with program.log.open("ab") as output:
        process = subprocess.Popen(
            [*program.argv],
            stdin=subprocess.DEVNULL if program.stdin is None else subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=dict(program.environ),
            cwd=program.directory,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            process_group=0,
            # Only async-signal-safe work happens in it, and the callers start children from their only thread.
            preexec_fn=_tether(program.on_orphaned),  # noqa: PLW1509
        )
    if program.stdin is not None:
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(program.stdin.encode())
    return process


def _tether(on_orphaned: signal.Signals) -> Callable[[], None] | None:
    """Asks the kernel to signal the child when its parent dies (prctl(2), Linux only).

    Runs in the child after its user was changed, because that change would withdraw the request. Elsewhere than on
    Linux children of a killed parent stay; the next `up` or `down` finds and stops them by their recorded pids.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def request() -> None:
        prctl(PR_SET_PDEATHSIG, int(on_orphaned), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return request
