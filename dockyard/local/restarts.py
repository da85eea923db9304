"""How long a crashed process is left down: longer each time it crashes early, never for long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Delays double from the first to the longest while crashes follow each other; a stable run starts afresh."""

    # Short: a process that ran well and was killed is wanted back at once.
    first_delay_seconds: float = 0.1
    delay_seconds_max: float = 5.0
    # Who ran this long did not crash because of how it was started.
    stable_seconds: float = 10.0

    def crashes_in_a_row(self, before: int, ran_seconds: float) -> int:
        """How many crashes now count as one series."""
        return 1 if ran_seconds >= self.stable_seconds else before + 1

    def delay_seconds(self, crashes_in_a_row: int) -> float:
        """How long to wait before the next start."""
        assert crashes_in_a_row >= 1, crashes_in_a_row
        # The exponent is bounded as well: a process may crash all night.
        return min(self.first_delay_seconds * 2.0 ** min(crashes_in_a_row - 1, 30), self.delay_seconds_max)
