"""The errors of Dockyard: each says what the caller may do next.

    DockyardError
    ├── Invalid        the request is malformed: correct it
    ├── NotFound       there is no such thing: do not repeat
    ├── Conflict       the state does not allow it now: read again, then decide
    │   └── StillRunning   the same request is being worked on: ask again later
    ├── Mismatch       the key was used before with another request: use a new key
    ├── Refused        the answer is no and stays no: give up, undo what was done
    ├── Unavailable    nothing happened: retry
    │   └── Overloaded     nothing happened, too much work is waiting: retry after `retry_after_seconds`
    └── InDoubt        it may have happened: ask, or retry under the same key

The edges map the tree to HTTP and to gRPC, each by one table; a test proves both tables total.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

_NO_DETAILS: Mapping[str, str] = MappingProxyType({})


class DockyardError(Exception):
    """What went wrong, as a stable kebab-case `code`, a sentence for people, and details for programs."""

    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        details: Mapping[str, str] = _NO_DETAILS,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details = details
        self.retry_after_seconds = retry_after_seconds

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code}: {self.message})"


class Invalid(DockyardError):
    default_code = "invalid"


class NotFound(DockyardError):
    default_code = "not-found"


class Conflict(DockyardError):
    default_code = "conflict"


class StillRunning(Conflict):
    default_code = "still-running"


class Mismatch(DockyardError):
    default_code = "idempotency-key-reused"


class Refused(DockyardError):
    default_code = "refused"


class Unavailable(DockyardError):
    default_code = "unavailable"


class Overloaded(Unavailable):
    default_code = "overloaded"


class InDoubt(DockyardError):
    default_code = "in-doubt"
