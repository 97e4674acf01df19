"""Exercises that check themselves: `check_*(your_function)` says what is wrong in the terms of the lesson.

Each returns a `Verdict`, which shows itself at the end of a cell; the solutions are not here.
"""

from zerosim.exercises.verdict import Verdict

__all__ = ["Verdict"]
