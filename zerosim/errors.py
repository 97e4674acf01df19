"""The two ways a run ends early on purpose; anything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """What was asked for cannot be done: one line that says what is wrong and what would be right (exit 2)."""


class Diverged(RuntimeError):
    """The loss is no longer a number: one line that says where (exit 1)."""
