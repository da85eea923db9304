"""Who the database servers run as: PostgreSQL refuses root, so root starts its servers as nobody."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from dockyard.local.problems import EnvironmentProblem

# The numeric `nobody` of Linux. No account has to exist: the kernel only needs the number.
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Account:
    """A numeric user and group without supplementary groups."""

    uid: int
    gid: int

    def may_enter(self, directory: Path) -> bool:
        """Whether this account may search `directory` itself, its parents not regarded."""
        found = directory.stat()
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def server_account() -> Account | None:
    """The account servers must be started as; None means as ourselves."""
    return Account(NOBODY, NOBODY) if os.geteuid() == 0 else None


def barrier_to(path: Path, account: Account | None) -> Path | None:
    """The outermost directory on the way to `path` that `account` may not search; None when it gets there."""
    if account is None:
        return None
    way = [*reversed(path.resolve().parents)]
    return next((directory for directory in way if not account.may_enter(directory)), None)


def check_reachable(path: Path, account: Account | None) -> None:
    """Raises EnvironmentProblem when the servers' account could not reach `path`."""
    closed = barrier_to(path, account)
    if closed is not None:
        assert account is not None
        raise EnvironmentProblem(
            f"PostgreSQL refuses root and runs as uid {account.uid} instead, which may not enter {closed}: "
            f"choose another place with --home, or allow it with `chmod o+x {closed}`"
        )


def give(path: Path, account: Account | None) -> None:
    """Makes `path` the account's own."""
    if account is not None:
        os.chown(path, account.uid, account.gid)
