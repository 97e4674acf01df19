"""The ways a run ends early on purpose; anything else is a bug and keeps its traceback."""

_LONGEST = 1200
"""Characters of a complaint: what it quotes may be of any length."""


class InputError(ValueError):
    """What was asked for cannot be done: one line that says what is wrong and what would be right (exit 2)."""

    def __init__(self, message: str) -> None:
        line = "".join(char if char.isprintable() else "?" for char in " ".join(message.split()))
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 4 :]}"
        super().__init__(line)


class Failed(RuntimeError):
    """A run cannot go on: one line that says why (exit 1)."""

    status = 1
    """What the process exits with."""


class Diverged(Failed):
    """The loss is no longer a number: one line that says where."""


class Finished(Failed):
    """There is nothing left to do: one line that says so, and no failure (exit 0)."""

    status = 0


class Interrupted(Failed):
    """A signal has asked for the end: one line that says which, and after which step (exit 128 + the signal)."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal
