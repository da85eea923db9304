"""What the environment can refuse: each is one sentence that says what to do."""


class EnvironmentProblem(Exception):
    """The machine does not allow it: a busy port, a missing directory, a dead server. Exit code 3."""
