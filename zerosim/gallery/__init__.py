"""The gallery of bugs: mistakes that people made, as variants of zerosim that run, and what finds them.

from zerosim import gallery

bug = gallery.BUGS["local-norm"]        # title, symptom, lesson, seen, right and wrong source, diff()
with gallery.broken("local-norm"):      # zerosim has this bug within the block
    ...
result = gallery.run("local-norm", N=4)     # right and broken, side by side, under all instruments
gallery.run("local-norm", N=4, fix=mine)    # the same, and a reader's own function as well
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import zerosim
from zerosim.gallery.bug import Bug, Function, source, swapped
from zerosim.gallery.bugs import BUGS
from zerosim.gallery.instruments import INSTRUMENTS, Experiment, Reading
from zerosim.myths.lab import Lab
from zerosim.words import picked

SCHEMA = "zerosim.gallery/1"
NAIVE = "loss"
"""The instrument that is no promise, but what everybody looks at."""

__all__ = ["BUGS", "INSTRUMENTS", "Bug", "Reading", "Result", "broken", "chosen", "format_gallery", "format_result"]
__all__ += ["format_bugs", "listing", "report", "run", "source", "swapped"]

Readings = dict[str, Reading]
"""By instrument."""


@dataclass(frozen=True)
class Result:
    """What the instruments said of the right program, of the broken one, and of a reader's `fix`, if there is one."""

    bug: Bug
    N: int
    seed: int
    right: Readings
    broken: Readings
    fix: Readings | None = None

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


@contextmanager
def broken(name: str) -> Iterator[None]:
    """Let zerosim have a bug for the length of a `with` block, on ranks in this process that start and end in it."""
    (bug,) = chosen(name)
    with swapped(bug.target, bug.wrong):
        yield


def run(name: str, N: int = 4, seed: int = 0, fix: Function | str | None = None, lab: Lab | None = None) -> Result:
    """Run a bug's training on N in-process ranks (2 or more), right and broken, under all instruments.

    `fix` is a reader's function, or its source, to be tried in place of the broken one. With a `lab`, its ranks and
    its seed count, and what it has seen is not run again. Raises InputError for a name that is
    not known.
    """
    (bug,) = chosen(name)
    lab = lab or Lab(N, seed)
    lab.tell(f"{name}: running the right program")
    right = lab.once(("right", str(bug.settings), bug.data), lambda: _examine(bug, lab))
    lab.tell(f"{name}: running the broken one")
    with broken(name):
        wrong = lab.once(("broken", name), lambda: _examine(bug, lab))
    mine = None
    if fix is not None:
        with swapped(bug.target, fix):
            mine = _examine(bug, lab)
    return Result(bug, lab.N, lab.seed, right, wrong, mine)


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
                **_known(result.bug),
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
    texts = {what: getattr(bug, what) for what in ("name", "title", "place", "symptom", "instrument", "lesson", "seen")}
    return {**texts, "settings": bug.settings, "diff": bug.diff()}


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
    """Return a bug on a page: what is changed, what the instruments say, the symptom, and the lesson."""
    from zerosim.report import console_text, plain_table

    bug = result.bug
    programs = {"right": result.right, "broken": result.broken, **({"yours": result.fix} if result.fix else {})}
    table = plain_table(2)
    for title in ("instrument", *programs):
        table.add_column(title, no_wrap=title == "instrument")
    for name in INSTRUMENTS:
        cells = [("CAUGHT: " * (name in result.caught(own))) + own[name].said for own in programs.values()]
        table.add_row(name, cells[0], *("the same" if cell == cells[0] else cell for cell in cells[1:]))
    settings = ", ".join(f"{key} {value}" for key, value in bug.settings.items())
    heading = f"{bug.title} ({bug.name})."
    where = f"{result.N} ranks in one process, seed {result.seed}{', ' if settings else ''}{settings}; {bug.place}:"
    texts = (f"Symptom: {bug.symptom}", f"The instrument for it: {bug.instrument}.", f"Lesson: {bug.lesson}")
    after = "\n\n".join((*texts, f"Seen: {bug.seen}."))
    above, below = (console_text(*parts, width=width).rstrip() for parts in ((heading, "", where), (table, "", after)))
    return f"{above}\n\n" + "\n".join(bug.diff()) + f"\n\n{below}"
