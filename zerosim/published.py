"""Published numbers beside our formulas: a file of rows, each evaluated by a function of `zerosim.formulas`.

A file is a JSON list of rows, or an object with such a list as "rows". A row:

    {"id": "zero.t1.7.5B.N64.os",               a name of its own
     "source": "ZeRO arXiv:1910.02054v3", "place": "Table 1", "quantity": "model states per device",
     "formula": "states_per_rank",              a function of zerosim/formulas.py, or NAME.PART of what it returns
     "inputs": {"stage": 1, "Psi": 7.5e9, "N": 64},     its arguments, in bytes, elements, 1/s
     "published": 31.4, "unit": "GB",           the number as printed, and its unit, one of `UNITS`
     "rounding": "nearest"}                     how the two are compared, see `AGREEMENTS`; "nearest" if left out

The decimals of `published` say how it was rounded; where they do not, "decimals" does. "misprint" is a sentence that
explains why a row differs. A row without "formula", or with one of `NOT_FORMULAS`, is a measurement or a setting: it is
shown and not evaluated. `published` may also be a formula, such as "6 + 12 / d" for the inputs {"N": "d", …}: then
"at", {"d": [1, 8, 64]}, says where it and ours are compared. Papers' own ways of writing a formula for a number
("2*Psi+2*Psi+K*Psi/Nd") are understood too, with the names of inputs that they have: `datasets/written.json`.
"""

import ast
import difflib
import functools
import inspect
import json
import math
import re
import warnings
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import resources
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.errors import InputError
from zerosim.jsonfile import parse_json, read_text

UNITS = {
    **{f"{prefix}B": 1000.0**i for i, prefix in enumerate(("", "k", "M", "G", "T", "P"))},
    **{f"{prefix}iB": 1024.0**i for i, prefix in enumerate("KMGTP", 1)},
    **{f"{prefix}B/s": 1000.0**i for i, prefix in enumerate(("", "k", "M", "G", "T", "P"))},
    **{f"{prefix}FLOPS": 1000.0**i for i, prefix in enumerate("MGTPE", 2)},
    **{name: 1000.0**i for i, name in enumerate(("thousand", "million", "billion", "trillion"), 1)},
    "%": 0.01,
    "": 1.0,
    "x": 1.0,
    "elements": 1.0,
    "bytes": 1.0,
    "bytes/parameter": 1.0,
    "days": 1.0,
}
"""What one of a unit is in bytes, bytes per second, operations per second, or as a plain number."""

AGREEMENTS = {
    "nearest": "rounded to the decimals printed",
    "down": "truncated to the decimals printed",
    "up": "rounded up",
    "exact": "the same number",
    "about P%": "within P percent",
    "over": "the text says over so much: ours is more",
    "under": "the text says less than so much: ours is less",
    "limit": "what there is: ours does not exceed it",
    "bound": "what was measured: it does not exceed ours",
}

NOT_FORMULAS = ("measurement", "setting", "definition")

_KEYS = {"id": str, "source": str, "place": str, "quantity": str, "formula": str, "inputs": dict, "unit": str}
_KEYS |= {"rounding": str, "misprint": str, "note": str, "at": dict}
_OTHERS = {"published", "decimals", "recomputed", "agrees", "text_read"}
"""Keys of other types; the last three are what a file may say besides."""


@dataclass(frozen=True)
class Verdict:
    """What became of a row. `computed` is in the row's unit, None if nothing was to be evaluated.

    `status` is "agrees", "differs", "misprint" (it differs, and the file explains why), "measured" (there is nothing to
    evaluate) or "text" (the published value is text); `why` says more in a few words or a sentence, or is empty.
    """

    row: dict[str, Any]
    computed: float | None
    status: str
    why: str = ""


class Printed(float):
    """A number of a JSON file that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> "Printed":
        """`text` as JSON has it."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def shipped() -> list[dict[str, Any]]:
    """The rows that come with the program."""
    return _rows(_dataset("published.json"), "published.json")


def load(path: str) -> list[dict[str, Any]]:
    """Return the rows of a file. Raises InputError, naming file and row, for what is no row."""
    return _rows(read_text(path, f"check {path}"), f"check {path}")


def _dataset(name: str) -> str:
    return (resources.files("zerosim") / "datasets" / name).read_text(encoding="utf-8")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _rows(text: str, what: str) -> list[dict[str, Any]]:
    whole = parse_json(text, what, parse_float=Printed, parse_int=Printed, parse_constant=_no_number)
    rows = whole.get("rows") if isinstance(whole, dict) else whole
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{what}: it must hold a list of rows, or an object with such a list as 'rows'")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{what}: row {number} must be an object")
        where = f"{what}: row {number} ({row.get('id', 'without an id')})"
        for key in row.keys() - _KEYS.keys() - _OTHERS:
            close = difflib.get_close_matches(key, [*_KEYS, *_OTHERS], 1)
            raise InputError(f"{where}: {key!r} is not understood" + (f"; is {close[0]!r} meant?" if close else ""))
        for key in row.keys() & _KEYS.keys():
            if not isinstance(row[key], _KEYS[key]) and row[key] is not None:
                raise InputError(f"{where}: {key} must be {'an object' if _KEYS[key] is dict else 'text'}")
        if "published" not in row:
            raise InputError(f"{where}: 'published' is missing, the number that is printed")
        _check_published(row["published"], row, where)
    return rows


def _check_published(value: Any, row: dict[str, Any], where: str) -> None:
    """A number, a formula, or null where nothing is printed; a row that says too little would agree with anything."""
    if isinstance(value, bool) or not isinstance(value, (float, str, type(None))):
        raise InputError(f"{where}: 'published' must be a number, or a formula as text")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: the published number is too large")
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*", value):
        raise InputError(f"{where}: the published number {value!r} must stand without quotes")
    decimals = row.get("decimals")
    if decimals is not None and not (isinstance(decimals, float) and decimals.is_integer() and abs(decimals) <= 30):
        raise InputError(f"{where}: 'decimals' must be a whole number from -30 to 30")
    if isinstance(value, float) and decimals is not None and value and 10.0**-decimals > abs(value):
        raise InputError(f"{where}: 'decimals' {decimals:g} leave nothing of {value:g}")


def check(rows: list[dict[str, Any]], what: str = "check") -> list[Verdict]:
    """Evaluate each row. Raises InputError for a formula, an input, a unit or a rounding that there is not."""
    numbered = ((row, f"{what}: row {number} ({row.get('id')})") for number, row in enumerate(rows, 1))
    return [_verdict(_adapted(row, where), where) for row, where in numbered]


def _verdict(row: dict[str, Any], where: str) -> Verdict:
    published, name = row["published"], row.get("formula") or ""
    if name in NOT_FORMULAS or not name or published is None:
        return Verdict(row, None, "measured" if isinstance(published, float) else "text", row.get("note") or "")
    if not isinstance(published, float):
        if "at" not in row:
            if name.partition(".")[0] in catalogue():
                raise InputError(f"{where}: {published!r} is text; give a number, or with a formula 'at', its points")
            return Verdict(row, None, "text", row.get("note") or "")
        return _explained(_same_formula(row, where))
    computed, unit = _value(name, row.get("inputs") or {}, where), row.get("unit") or ""
    if unit not in UNITS:
        raise InputError(f"{where}: the unit {unit!r} is not known; known are {', '.join(filter(None, UNITS))}")
    computed /= UNITS[unit]
    agrees, how = _compare(computed, published, row, where)
    return _explained(Verdict(row, computed, "agrees" if agrees else "differs", how))


def _explained(found: Verdict) -> Verdict:
    """The verdict on a row that may be marked as a misprint."""
    only_if = found.row.get("only_if")
    if not found.row.get("misprint") or (
        only_if is not None and not math.isclose(found.computed or 0.0, only_if, rel_tol=0.005)
    ):
        return found
    if found.status == "agrees":
        return replace(found, status="differs", why="it is marked as a misprint, but agrees")
    return replace(found, status="misprint", why=found.row["misprint"])


def _value(name: str, inputs: dict[str, Any], where: str) -> float:
    function_name, _, part = name.partition(".")
    function = catalogue().get(function_name)
    if function is None:
        raise InputError(f"{where}: there is no formula {function_name!r}; `check --formulas` lists them")
    given = {key: _plain(value) for key, value in inputs.items()}
    parameters = inspect.signature(function).parameters
    if "stage" in given and given["stage"] not in (0, 1, 2, 3):
        raise InputError(f"{where}: stage {given['stage']!r} is not known; it is 0, 1, 2 or 3")
    for key, value in given.items():
        if isinstance(value, (int, float)) and value < 0:
            raise InputError(f"{where}: the input {key} is {value:g}; it must not be negative")
    missing = [one.name for one in parameters.values() if one.default is one.empty and one.name not in given]
    for names, said in (((given.keys() - parameters.keys()), "there is no input"), (missing, "these are missing:")):
        if names:
            raise InputError(f"{where}: {signature(function_name)}: {said} {', '.join(sorted(names))}")
    try:
        with np.errstate(all="raise"):
            value = function(**given)
        if part:
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        number = float(value)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{where}: {name} cannot be evaluated with these inputs ({reason})") from None
    if not math.isfinite(number):
        raise InputError(f"{where}: {name} of these inputs is not finite")
    return number


def _same_formula(row: dict[str, Any], where: str) -> Verdict:
    """Compare a published formula with ours, at each of the points that the row names."""
    names, columns, given = list(row["at"] or ()), list((row["at"] or {}).values()), row.get("inputs") or {}
    numbers = all(isinstance(column, list) and all(type(one) is Printed for one in column) for column in columns)
    if not numbers or len({len(column) for column in columns}) != 1 or not columns[0]:
        raise InputError(f"{where}: 'at' must have lists of numbers, equally long, such as {{\"d\": [1, 8, 64]}}")
    for point in (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)):
        inputs = {key: point.get(value, value) if isinstance(value, str) else value for key, value in given.items()}
        ours, theirs = _value(row["formula"], inputs, where), _arithmetic(row["published"], point, where)
        if not math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-300):
            at = ", ".join(f"{name} = {value:g}" for name, value in point.items())
            return Verdict(row, None, "differs", f"at {at} it is {theirs:g}, ours {ours:g}")
    return Verdict(row, None, "agrees", f"the same at {len(columns[0])} points")


_ALLOWED: tuple[type[ast.AST], ...] = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.Call,
)
_ALLOWED += (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.USub)
_LONGEST = 500
_FUNCTIONS: dict[str, Any] = {"lg": math.log2, "ceil": math.ceil, "floor": math.floor, "sqrt": math.sqrt}


def _arithmetic(text: str, names: dict[str, Any], where: str) -> float:
    """The value of a formula as text: numbers, names, + - * / // **, and lg, ceil, floor, sqrt."""
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it is longer than {_LONGEST} characters")
        with warnings.catch_warnings(action="error"):
            tree = ast.parse(text, mode="eval")
            for node in ast.walk(tree):
                if not isinstance(node, _ALLOWED):
                    raise ValueError("only arithmetic is understood")
                if isinstance(node, ast.Constant):  # whole numbers have no limit, and their powers no end
                    if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
                        raise ValueError("only numbers are understood")
                    node.value = float(node.value)
            code = compile(tree, "formula", "eval")
        values: dict[str, Any] = {name: float(value) for name, value in names.items()}
        return float(eval(code, {"__builtins__": {}}, _FUNCTIONS | values))
    except (SyntaxError, NameError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        said = text if len(text) < 60 else f"{text[:60]}…"
        reason = "the number is too large" if isinstance(error, OverflowError) else error
        raise InputError(f"{where}: the published formula {said!r} cannot be evaluated ({reason})") from None


def _plain(value: Any) -> Any:
    """A JSON number as the int or float that it is."""
    if isinstance(value, Printed):
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _compare(computed: float, published: float, row: dict[str, Any], where: str) -> tuple[bool, str]:
    """Whether the two agree under the row's rounding, and by how much they differ where that says something."""
    rounding = row.get("rounding") or "nearest"
    step = _step(published, row.get("decimals"))
    slack = 1e-9 * max(abs(computed), abs(published))
    off = f"{100 * (computed / published - 1):+.2g} %" if published else ""
    if about := re.fullmatch(r"about ([0-9]+(?:\.[0-9]+)?) ?%", rounding):
        return abs(computed - published) <= float(about[1]) / 100 * abs(published) + slack, ""
    agreements = {
        "nearest": abs(computed - published) <= step / 2 + slack,
        "down": -slack <= computed - published < step,
        "up": -slack <= published - computed < step,
        "exact": abs(computed - published) <= slack,
        "over": computed > published,
        "under": computed < published,
        "limit": computed <= published + slack,
        "bound": published <= computed + slack,
    }
    if rounding not in agreements:
        raise InputError(f"{where}: the rounding {rounding!r} is not known; known are {', '.join(AGREEMENTS)}")
    words = {
        "down": "cut",
        "up": "up",
        "bound": f"{100 * published / computed:.0f} %" if computed else "",
    }
    return agreements[rounding], words.get(rounding, "") if agreements[rounding] else off


def _step(published: float, decimals: Any) -> float:
    """One in the last place printed: 31.4 is given to 0.1, 120 and 120.0 to 1, 1.5e9 to 1e8."""
    if decimals is not None:
        return 10.0 ** -int(decimals)
    text = published.text if isinstance(published, Printed) else repr(published)
    text = re.sub(r"\.0(?=$|[eE])", "", text)
    return 10.0 ** int(Decimal(text).as_tuple().exponent)


@functools.cache
def catalogue() -> dict[str, Any]:
    """The formulas, by name: the functions of `zerosim.formulas` that a row can name."""
    return {
        name: function
        for name, function in vars(formulas).items()
        if inspect.isfunction(function) and function.__module__ == formulas.__name__ and not name.startswith("_")
    }


def signature(name: str) -> str:
    """A formula's name and inputs, with their defaults: "ratio(a, b)"."""
    parameters = inspect.signature(catalogue()[name]).parameters.values()
    inputs = (one.name if one.default is one.empty else f"{one.name}={one.default!r}" for one in parameters)
    return f"{name}({', '.join(inputs)})"


# as papers write -----------------------------------------------------------------------------------------------------


def _adapted(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row in our words: formula, inputs, unit and rounding, where they are written as papers do."""
    text = _close(row.get("formula") or "")
    entry = next((entry for entry in _written() if _close(entry["text"]) == text and _fits(entry, row)), None)
    if entry is None:
        entry = {"formula": row.get("formula")}
        if text.partition(".")[0] not in catalogue():
            return row
    if entry["formula"] in NOT_FORMULAS:
        return row | {"formula": entry["formula"], "note": row.get("note") or entry.get("note")}
    names, times, inputs = entry.get("names", {}), entry.get("times", {}), row.get("inputs") or {}
    for name, ours in names.items():
        if ours == "N" and not {name, ours} & inputs.keys() and re.search(rf"\b({name}|N)\b", row["formula"]):
            raise InputError(f"{where}: the input {name} of {row['formula']} is missing")
        if ours != name and {name, ours} <= inputs.keys():
            raise InputError(f"{where}: the inputs {name} and {ours} are the same; give one of them")
    renamed = {names.get(key, key): value for key, value in inputs.items()}
    given = {
        key: value * times[key] if key in times and isinstance(value, float) else value
        for key, value in renamed.items()
        if key is not None
    }
    rounding, decimals = _rounding(row)
    return row | {
        "formula": entry["formula"],
        "inputs": entry.get("inputs", {}) | given,
        "unit": entry.get("unit") or _unit(row.get("unit") or ""),
        "rounding": entry.get("rounding") or rounding,
        "decimals": row.get("decimals", decimals),
        "misprint": row.get("misprint") or _known_to_differ(row, entry),
        "only_if": None if row.get("misprint") else row.get("recomputed"),
    }


def _known_to_differ(row: dict[str, Any], entry: dict[str, Any]) -> str | None:
    """Why a row differs that says so itself, and says what it should be and by how much it is off."""
    remark = row.get("rounding") or ""
    if row.get("agrees") is not False or not isinstance(row.get("recomputed"), float) or not re.search("[0-9]", remark):
        return None
    return entry.get("misprint") or f"known to differ: {remark}"


@functools.cache
def _written() -> list[dict[str, Any]]:
    return json.loads(_dataset("written.json"))


def _close(text: str) -> str:
    """A formula without its blanks, which people set as they like; N_d, the data-parallel ranks, is N."""
    return re.sub(r"\bNd\b", "N", re.sub(r"\s+", "", text))


def _fits(entry: dict[str, Any], row: dict[str, Any]) -> bool:
    return all(re.search(pattern, str(row.get(key) or "")) for key, pattern in entry.get("where", {}).items())


def _unit(text: str) -> str:
    """A unit as papers write it: "GB(1e9)", "TiB (printed TB)", "B params" for billions, "% (over)"."""
    text = re.sub(r"\(.*", "", text).strip().removesuffix("aggregate").strip()
    text = {"B params": "billion", "M bytes": "bytes", "bytes/param": "bytes/parameter"}.get(text, text)
    text = text.removesuffix("/GPU")
    return "" if text in ("M", "M elements", "Psi elements", "msg", "sbh", "factor") else text


def _rounding(row: dict[str, Any]) -> tuple[str, int | None]:
    """How a row is compared, in our words or papers': (rounding, decimals)."""
    said, unit = row.get("rounding") or "", row.get("unit") or ""
    if said in AGREEMENTS or said.startswith("about "):
        return said, None
    if "(over)" in unit:
        return "over", None
    if "(less than)" in unit:
        return "under", None
    if "limit" in unit:
        return "limit", None
    if said == "ratio to bound":
        return "bound", None
    if about := re.match(r"approx\(([0-9]+(?:\.[0-9]+)?)%\)", said):
        return f"about {math.ceil(float(about[1]))}%", None
    if "around" in said:
        return "about 15%", None
    if "printed in T" in said:
        return "nearest", -2
    if re.fullmatch(r"[0-9.]+%", said) and "recomputed" in row:  # a share that the text calls enough
        return "over", None
    remark = said in ("", "rounded") or (re.search("[0-9]", said) and "recomputed" in row) or "1-decimal" in said
    return "down" if said == "truncated" else "nearest" if remark else said, None
