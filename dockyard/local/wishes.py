"""What somebody outside wishes of a running supervisor, service by service; SIGUSR1 tells it to look."""

from dataclasses import dataclass, field

import msgspec

from dockyard.local.home import Home
from dockyard.local.state import write_private


@dataclass(frozen=True, slots=True)
class Wish:
    """A service is to be ended and, if `wanted`, started with these further variables.

    Wishes of a service are numbered; one is fulfilled when the service's state carries its `serial`. `environ` None
    leaves the variables of the last wish; those in `once` reach only the next process.
    """

    serial: int
    wanted: bool
    environ: dict[str, str] | None = None
    once: dict[str, str] = field(default_factory=dict)


def load(home: Home) -> dict[str, Wish]:
    """The latest wish of each service."""
    try:
        return msgspec.json.decode(home.wishes.read_bytes(), type=dict[str, Wish])
    except FileNotFoundError:
        return {}


def save(home: Home, wishes: dict[str, Wish]) -> None:
    write_private(home.wishes, msgspec.json.encode(wishes))


def forget(home: Home) -> None:
    """Wishes end with the run they were made in."""
    home.wishes.unlink(missing_ok=True)
