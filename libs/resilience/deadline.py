"""A deadline: the moment after which nobody waits for the answer any more."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """In milliseconds since 1970, as it travels in messages. Clocks of different machines differ by a few of them."""

    at_unix_ms: int

    @classmethod
    def after(cls, seconds: float, now_unix_ms: int) -> "Deadline":
        return cls(now_unix_ms + round(seconds * 1000))

    def remaining_seconds(self, now_unix_ms: int) -> float:
        """What is left of it; 0 when it has passed."""
        return max(self.at_unix_ms - now_unix_ms, 0) / 1000

    def passed(self, now_unix_ms: int) -> bool:
        return now_unix_ms >= self.at_unix_ms

    def within(self, other: "Deadline") -> "Deadline":
        """The earlier of the two: a part never gets longer than the whole."""
        return min(self, other)
