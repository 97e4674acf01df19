"""The gallery of bugs: mistakes that people made, as variants of zerosim that run, and what finds them.

from zerosim import gallery

bug = gallery.BUGS["local-norm"]        # title, symptom, lesson, seen, right and wrong source, diff()
with gallery.broken("local-norm"):      # zerosim has this bug within the block
    ...
result = gallery.run("local-norm", N=4)     # right and broken, side by side, under all instruments
gallery.run("local-norm", N=4, fix=mine)    # the same, and a reader's own function as well
gallery.run(7, N=4)                     # a bug that has a number in place of its name, for whoever is to find it
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import zerosim
from zerosim.errors import InputError
from zerosim.gallery.bug import Bug, Function, source, swapped
from zerosim.gallery.bugs import BUGS
from zerosim.gallery.instruments import INSTRUMENTS, Experiment, Reading
from zerosim.myths.lab import Lab
from zerosim.words import picked

SCHEMA = "zerosim.gallery/1"
NAIVE = "loss"
"""The instrument that is no promise, but what everybody looks at."""

__all__ = ["BUGS", "INSTRUMENTS", "Bug", "Reading", "Result", "broken", "chosen", "format_gallery", "format_result"]
__all__ += ["format_bugs", "listing", "report", "run", "source", "swapped", "unnamed"]

Readings = dict[str, Reading]
"""By instrument."""


@dataclass(frozen=True)
class Result:
    """What the instruments said of the right program, of the broken one, and of a reader's `fix`, if there is one."""

    bug: Bug = field(repr=False)  # a notebook would show it, and who has only a number is to find it
    N: int
    seed: int
    right: Readings
    broken: Readings
    fix: Readings | None = None
    number: int | None = None
    """What stands for the bug's name, if it was asked for by number."""

    @property
    def caught_by(self) -> list[str]:
        """The instruments that find the broken program out."""
        return self.caught(self.broken)

    @property
    def fixed(self) -> bool:
        """Whether the reader's fix keeps all promises that the right program keeps."""
        return self.fix is not None and not self.caught(self.fix)

    def caught(self, readings: Readings) -> list[str]:
        """The instruments whose promise is not kept, though the right program keeps it."""
        return [name for name, reading in readings.items() if self.right[name].holds and not reading.holds]


def chosen(*names: str) -> list[Bug]:
    """Return the bugs of these names, or all if there are none. Raises InputError for a name that is not known."""
    return picked("gallery", "bug", names, BUGS)


def unnamed(number: int) -> Bug:
    """Return the bug that a number stands for where its name is not to be told.

    1 to `len(BUGS)` are all bugs, in an order that tells nothing; the numbers after them are all bugs again, in
    another order, and so on. Raises InputError for a number below 1.
    """
    if number < 1:
        raise InputError(f"gallery: blind: {number} must be 1 or more")
    turn, place = divmod(number - 1, len(BUGS))
    order = sorted(BUGS, key=lambda name: hashlib.sha256(f"{turn} {name}".encode()).digest())
    return BUGS[order[place]]


def _found(which: str | int) -> Bug:
    return unnamed(which) if isinstance(which, int) else chosen(which)[0]


@contextmanager
def broken(which: str | int) -> Iterator[None]:
    """Let zerosim have a bug for the length of a `with` block, on ranks in this process that start and end in it.

    `which` is the bug's name, or its number as `unnamed` takes it.
    """
    bug = _found(which)
    with swapped(bug.target, bug.wrong):
        yield


def run(
    which: str | int, N: int = 4, seed: int = 0, fix: Function | str | None = None, lab: Lab | None = None
) -> Result:
    """Run a bug's training on N in-process ranks (2 or more), right and broken, under all instruments.

    `fix` is a reader's function, or its source, to be tried in place of the broken one. With a `lab`, its ranks and
    its seed count, and what it has seen is not run again. `which` is the bug's name, or its number as `unnamed` takes
    it; then nothing that is printed of the result tells the name, and a `fix` of another function than the broken one
    raises ValueError, which says no more than that. Raises InputError for a name or a number that is not known.
    """
    bug, number = _found(which), which if isinstance(which, int) else None
    lab, name = lab or Lab(N, seed), bug.name if number is None else f"bug {number}"
    lab.tell(f"{name}: running the right program")
    right = lab.once(("right", str(bug.settings), bug.data), lambda: _examine(bug, lab))
    lab.tell(f"{name}: running the broken one")
    with broken(bug.name):
        wrong = lab.once(("broken", bug.name), lambda: _examine(bug, lab))
    mine = None
    if fix is not None:
        if number is not None and not _same_function(bug.target, fix):
            raise ValueError(f"{name} is not in that function")
        with swapped(bug.target, fix):
            mine = _examine(bug, lab)
    return Result(bug, lab.N, lab.seed, right, wrong, mine, number)


def _same_function(target: Function, fix: Function | str) -> bool:
    """Whether a fix is of the broken function, by its name; of zerosim's own, those of that name are told apart."""
    target = inspect.unwrap(target)
    if isinstance(fix, str):
        lines = ast.parse(textwrap.dedent(fix)).body
        return any(isinstance(line, ast.FunctionDef) and line.name == target.__name__ for line in lines)
    own = inspect.unwrap(fix)
    return own is target if own.__module__.startswith("zerosim.") else own.__name__ == target.__name__


def _examine(bug: Bug, lab: Lab) -> Readings:
    experiment = Experiment(lab, bug.settings, bug.data)
    return {name: instrument(experiment) for name, instrument in INSTRUMENTS.items()}


def report(results: list[Result]) -> dict[str, Any]:
    """Return results as JSON types: "bugs" has of each what is known of it, both readings, and what caught it."""
    first = results[0]
    return {
        "schema": SCHEMA,
        "zerosim": zerosim.__version__,
        "ranks": first.N,
        "seed": first.seed,
        "bugs": [
            {
                **(_known(result.bug) if result.number is None else _noticed(result)),
                "right": {name: asdict(reading) for name, reading in result.right.items()},
                "broken": {name: asdict(reading) for name, reading in result.broken.items()},
                "caught_by": result.caught_by,
            }
            for result in results
        ],
    }


def listing() -> dict[str, Any]:
    """Return what is known of all bugs as JSON types, nothing run."""
    return {"schema": SCHEMA, "zerosim": zerosim.__version__, "bugs": [_known(bug) for bug in BUGS.values()]}


def _known(bug: Bug) -> dict[str, Any]:
    whats = ("name", "title", "place", "noticed", "symptom", "instrument", "lesson", "seen")
    return {**{what: getattr(bug, what) for what in whats}, "settings": bug.settings, "diff": bug.diff()}


def _noticed(result: Result) -> dict[str, Any]:
    """What whoever is to find a bug may know of it."""
    return {"number": result.number, "noticed": result.bug.noticed, "settings": result.bug.settings}


# on the terminal -----------------------------------------------------------------------------------------------------


def format_bugs(width: int = 80) -> str:
    """Return the names and titles of all bugs."""
    from zerosim.report import name_list

    return name_list("name", "what is wrong", ((bug.name, bug.title) for bug in BUGS.values()), width)


def format_gallery(results: list[Result], width: int = 80) -> str:
    """Return a table: a line for each bug, a column for each instrument, an x where it catches the bug."""
    from zerosim.report import console_text, plain_table

    table = plain_table(1)
    table.add_column("\nbug", no_wrap=True)
    for name in INSTRUMENTS:
        table.add_column(name.replace("-", "\n") if "-" in name else f"\n{name}", justify="center", no_wrap=True)
    for result in results:
        table.add_row(result.bug.name, *("x" if name in result.caught_by else "." for name in INSTRUMENTS))
    missed = sum(NAIVE not in result.caught_by for result in results)
    return console_text(
        f"{results[0].N} ranks in one process, seed {results[0].seed}; x: this instrument catches the bug.",
        table,
        f"The loss falls all the same in {missed} of {len(results)}.",
        width=width,
    )


def format_result(result: Result, width: int = 80) -> str:
    """Return a bug on a page: what is changed, what the instruments say, the symptom, and the lesson.

    Of one that was asked for by number, only what one notices and what the instruments say.
    """
    from zerosim.report import console_text

    bug, table = result.bug, _instruments(result)
    where = f"{result.N} ranks in one process, seed {result.seed}"
    where += "".join(f", {key} {value}" for key, value in bug.settings.items())
    if result.number is not None:
        heading = f"Bug {result.number}: some lines of one function of zerosim are not as they should be."
        nothing = () if result.caught_by else (f"On {result.N} ranks no instrument finds it.", "")
        asked = "Which function is it, what is wrong there, and what mends it?"
        noticed = f"What one notices: {bug.noticed}"
        return console_text(heading, "", f"{where}.", "", noticed, "", table, "", *nothing, asked, width=width).rstrip()
    texts = (f"Symptom: {bug.symptom}", f"The instrument for it: {bug.instrument}.", f"Lesson: {bug.lesson}")
    after = "\n\n".join((*texts, f"Seen: {bug.seen}."))
    before = (f"{bug.title} ({bug.name}).", "", f"{where}; {bug.place}:")
    above, below = (console_text(*parts, width=width).rstrip() for parts in (before, (table, "", after)))
    return f"{above}\n\n" + "\n".join(bug.diff()) + f"\n\n{below}"


def _instruments(result: Result) -> Any:
    """A row for each instrument: what it says of the right program, of the broken one, and of a reader's."""
    from zerosim.report import plain_table

    programs = {"right": result.right, "broken": result.broken, **({"yours": result.fix} if result.fix else {})}
    table = plain_table(2)
    for title in ("instrument", *programs):
        table.add_column(title, no_wrap=title == "instrument")
    for name in INSTRUMENTS:
        cells = [("CAUGHT: " * (name in result.caught(own))) + own[name].said for own in programs.values()]
        table.add_row(name, cells[0], *("the same" if cell == cells[0] else cell for cell in cells[1:]))
    return table
