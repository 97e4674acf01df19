"""The command `check`: every row of a file of published numbers beside what our formulas give, and papers' figures."""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from zerosim import figures, published
from zerosim.commands.common import Commands, ProgressLine
from zerosim.commands.output import agreed_folder, door_of, is_first, printable
from zerosim.errors import InputError
from zerosim.published import Verdict
from zerosim.report import console_text, plain_table
from zerosim.transport import Transport
from zerosim.words import counted

SCHEMA = "zerosim.check/1"

_WORDS = {"measured": "measured", "text": "no number", "misprint": "misprint", "agrees": "agrees", "differs": "DIFFERS"}

_SIGNS = {"over": "> ", "under": "< ", "limit": "<= ", "bound": "<= ", "about": "~ "}
"""What a text says of the number that it gives."""

_FIGURES: dict[str, Callable[[Any, Any], Any]] = {
    "check-figure1": lambda points, rows: figures.figure1(rows),
    "check-states": figures.states,
    "check-largest": lambda points, rows: figures.largest(rows),
    "check-volume": lambda points, rows: figures.volume(points),
    "check-efficiency": lambda points, rows: figures.efficiency(rows),
}
"""By file name: how it is drawn from counted points and published rows."""


def add(commands: Commands) -> None:
    """Describe the command and its flags."""
    text = "hold the papers' published numbers against the formulas; exit status 1 if one differs unexplained"
    p = commands.add_parser("check", help=text, description=text, allow_abbrev=False)
    p.set_defaults(run=run, parser=p)
    p.add_argument("file", nargs="?", metavar="FILE.json", help="your own rows (default: those that come with zerosim)")
    p.add_argument("--formulas", action="store_true", help="list the formulas that a row can name, and their inputs")
    p.add_argument("--out", metavar="DIR", help="redraw ZeRO's and ZeRO-Infinity's figures there, with counted points")
    p.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def run(arguments: argparse.Namespace, transport: Transport | None) -> int:
    """Print a row for each published number, draw figures if asked to. Return 1 if a number differs unexplained."""
    first = is_first(transport)
    if arguments.formulas and arguments.out is not None:
        raise InputError("formulas, out: --formulas lists formulas and draws nothing; leave one of them out")
    if arguments.out is not None:
        files = [f"{name}{ending}" for name in _FIGURES for ending in (".png", ".svg")]
        agreed_folder(door_of(transport), arguments.out, *files)
    if arguments.formulas:
        if first:
            print(_formulas())
        return 0
    rows = published.shipped() if arguments.file is None else published.load(arguments.file)
    verdicts = published.check(rows, f"check {arguments.file or 'published.json'}")
    counts = Counter(verdict.status for verdict in verdicts)
    if first:
        print(json.dumps(_report(verdicts, counts), allow_nan=False) if arguments.json else _text(verdicts, counts))
    if first and arguments.out is not None:
        _draw(arguments.out)
        if not arguments.json:
            print(f"Figures, as .png and .svg in {arguments.out}:\n  {', '.join(_FIGURES)}")
    return int(counts["differs"] > 0)


def _draw(folder: str) -> None:
    """Count points and draw the figures, with the rows that come with zerosim, whatever rows were checked."""
    from zerosim import anchor

    progress = ProgressLine()
    try:
        points, rows = anchor.count(tell=progress.tell), published.shipped()
        for name, draw in _FIGURES.items():
            progress.tell(f"drawing {name}")
            figures.save(draw(points, rows), folder, name)
    finally:
        progress.done()


def _report(verdicts: list[Verdict], counts: Counter[str]) -> dict[str, Any]:
    rows = [
        {
            **{key: verdict.row.get(key) for key in ("id", "source", "place", "quantity", "formula", "inputs")},
            **{key: verdict.row.get(key) for key in ("published", "unit", "rounding")},
            "computed": verdict.computed,
            "status": verdict.status,
            "why": verdict.why,
        }
        for verdict in verdicts
    ]
    return {"schema": SCHEMA, "counts": dict(counts), "rows": rows}


def _text(verdicts: list[Verdict], counts: Counter[str]) -> str:
    by_source: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_source.setdefault(verdict.row.get("source") or "without a source", []).append(verdict)
    words = {
        "agrees": f"{counts['agrees']} agree",
        "differs": f"{counts['differs']} DIFFER without an explanation",
        "misprint": f"{counts['misprint']} misprints explained",
        "measured": f"{counts['measured']} are measurements or settings",
        "text": f"{counts['text']} are formulas that zerosim has no counterpart of, or are not printed as a number",
    }
    return console_text(
        *(part for source, group in by_source.items() for part in (printable(source), *_table(group), "")),
        f"{counted(len(verdicts), 'row')}: "
        + ", ".join(said for status, said in words.items() if counts[status])
        + ".",
    )


def _table(verdicts: list[Verdict]) -> list[Any]:

    table = plain_table()
    for title, width, justify in (
        ("row", 25, "left"),
        ("place", 12, "left"),
        ("published", 16, "right"),
        ("ours", 7, "right"),
        ("", 12, "left"),
    ):
        table.add_column(title, no_wrap=True, width=width, justify=justify)  # type: ignore[arg-type]
    notes = []
    for verdict in verdicts:
        row, status, ours = verdict.row, verdict.status, verdict.computed
        said = f", {verdict.why}" if status == "agrees" and 0 < len(verdict.why) < 6 else ""
        table.add_row(
            printable(row.get("id")),
            printable(row.get("place")),
            _printed(row),
            "" if ours is None else f"{ours:.5g}",
            _WORDS[status] + said,
        )
        if status in ("misprint", "differs"):
            notes.append(printable(f"{row.get('id')}: {verdict.why or 'ours differs'}"))
    return [table, *notes]


def _printed(row: dict[str, Any]) -> str:
    """The published number with its unit, and a sign where the text says over or less than so much."""
    number, unit, rounding = row["published"], row.get("unit") or "", row.get("rounding") or ""
    if not isinstance(number, float):
        return printable(number)
    text = number.text if isinstance(number, published.Printed) else f"{number:g}"
    sign = _SIGNS.get(rounding.partition(" ")[0], "")
    return f"{sign}{text.removesuffix('.0')} {unit}".strip()


def _formulas() -> str:
    return "\n".join(
        f"{published.signature(name)}\n    {(function.__doc__ or '').splitlines()[0]}"
        for name, function in published.catalogue().items()
    )
