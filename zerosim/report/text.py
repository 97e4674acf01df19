"""Numbers as text, and text with tables as it stands on a terminal."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def si(nbytes: float) -> str:
    """Bytes with four digits, in powers of 1000: 1360064 is "1.360 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 999.95 or unit == "TB":
            break
        nbytes /= 1000
    decimals = 0 if unit == "B" else max(0, 4 - len(str(int(nbytes))))
    return f"{nbytes:.{decimals}f} {unit}"


def binary(nbytes: float) -> str:
    """Bytes in powers of 1024: 4096 is "4 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024 or unit == "GiB":
            break
        nbytes /= 1024
    return f"{nbytes:.4g} {unit}"


def text_seconds(seconds: float) -> str:
    """Seconds with four digits: 0.0123 is "12.30 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.99995 * size or unit == "us":
            break
    value = seconds / size
    return f"{value:.{max(0, 4 - len(str(int(value))))}f} {unit}"


def beside(counted: float, formula: float, equal: bool) -> str:
    """Bytes counted beside the formula's, within a line of text; `equal` says whether they are."""
    return f"{si(counted)} {'=' if equal else '≠'} {si(formula)}"


def equation(counted: int, formula: int, equal: bool) -> str:
    """Bytes counted beside the formula's, 19 columns wide; `equal` says whether they are."""
    return f"{si(counted):>8} {'=' if equal else '≠'} {si(formula):<8}"


def number(value: float | None) -> str:
    """A loss or a share with four decimals."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def plain_table(gap: int = 1, **options: Any) -> "Table":
    """Return a table without columns, ruled below its heading; `gap` blanks will be between them."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0), **options)


def name_list(names: str, what: str, rows: Iterable[tuple[str, str]], width: int = 80) -> str:
    """Return a table of names and of what each stands for, with these two headings."""
    table = plain_table(2)
    table.add_column(names, no_wrap=True)
    table.add_column(what)
    for row in rows:
        table.add_row(*row)
    return console_text(table, width=width)


def console_text(*parts: Any, width: int = 80) -> str:
    """Return tables and lines of text as plain text, at most `width` columns wide."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    text = StringIO()
    console = Console(
        file=text, width=width, color_system=None, highlight=False, force_jupyter=False, markup=False, emoji=False
    )
    for part in parts:
        console.print(part, end="" if isinstance(part, Table) else "\n")
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
