"""What a witness is told of a run; each listens to what it needs."""

from typing import Any


class Witness:
    """One instrument, for one rank and the run of one stage. The methods are called in this order."""

    rehearses = False
    """Whether a step is to be taken before `before_allocation`, so that libraries have taken what they keep."""

    def __init__(self, door: Any) -> None:
        """Take a door (`zerosim.comm.Comm`) to try things with. Raises InputError if this cannot work here."""

    def before_allocation(self) -> None:
        """Nothing of the model is held yet."""

    def after_allocation(self) -> None:
        """The model states are held, and no step has been taken. All ranks are here at the same time."""

    def before_step(self) -> None:
        """A step begins."""

    def after_step(self) -> None:
        """A step has ended."""

    def at_rest(self) -> None:
        """The last step and its evaluation are over, and only model states are held. All ranks are here together."""

    def close(self) -> None:
        """The run is over, or has failed."""

    def testimony(self) -> dict[str, int]:
        """Return what was seen, in bytes."""
        raise NotImplementedError
