"""An instance's home: the one directory that holds its data, its state and its logs."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dockyard.local.problems import EnvironmentProblem

ROOT_HOME = Path("/var/lib/dockyard")


def default_home(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """/var/lib/dockyard for root, else below XDG_STATE_HOME (XDG Base Directory Specification)."""
    if (os.geteuid() if uid is None else uid) == 0:
        return ROOT_HOME
    state = environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path is invalid and must be ignored.
    return (Path(state) if state.startswith("/") else Path.home() / ".local" / "state") / "dockyard"


@dataclass(frozen=True, slots=True)
class Home:
    """The paths inside a home."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def wishes(self) -> Path:
        return self.path / "wishes.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Makes the directories that are missing. Raises EnvironmentProblem."""
        try:
            # As root the servers run as another user, who must get through to the data directory.
            if not self.path.exists():
                self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=self.path == default_home())
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:
            raise EnvironmentProblem(
                f"home {self.path} cannot be made because {self.path.parent} does not exist: "
                f"create it, or choose another with --home"
            ) from None
        except (FileExistsError, NotADirectoryError):
            raise EnvironmentProblem(f"home {self.path} is not a directory: choose another with --home") from None
        except OSError as error:
            raise EnvironmentProblem(
                f"home {self.path} cannot be used ({error.strerror}): choose another with --home"
            ) from None

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Holds the home for this process if nobody does: yields whether it does. The kernel lets go at its death."""
        with self.lock.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
