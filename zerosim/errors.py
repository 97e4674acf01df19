"""The ways a run ends early on purpose; anything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """What was asked for cannot be done: one line that says what is wrong and what would be right (exit 2)."""


class Failed(RuntimeError):
    """A run cannot go on: one line that says why (exit 1)."""

    status = 1
    """What the process exits with."""


class Diverged(Failed):
    """The loss is no longer a number: one line that says where."""


class Interrupted(Failed):
    """A signal has asked for the end: one line that says which, and after which step (exit 128 + the signal)."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal
