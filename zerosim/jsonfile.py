"""JSON in files: read with one line of complaint, written whole or not at all."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zerosim.errors import InputError
from zerosim.outside import check_file

_LONGEST = 1 << 27
"""Bytes of a file; what it says takes some twenty times as many."""


def read_text(path: str, what: str) -> str:
    """Return the text of a file. Raises InputError, which begins with `what`, if it cannot be read."""
    try:
        if (nbytes := check_file(path, what)) > _LONGEST:
            raise InputError(f"{what}: {nbytes:,} bytes are too many; {_LONGEST:,} are read at the most")
        return Path(path).read_text(encoding="utf-8")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{what}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{what}: not text ({error})") from None


def parse_json(text: str, what: str, **hooks: Any) -> Any:
    """Return what JSON text says; `hooks` are those of json.loads. Raises InputError, which begins with `what`."""
    try:
        return json.loads(text, **hooks)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{what}: not JSON ({reason})") from None


def read_json(path: str, what: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises InputError, which begins with `what`, if there is none."""
    value = parse_json(read_text(path, what), what)
    if not isinstance(value, dict):
        raise InputError(f"{what}: it must hold one JSON object")
    return value


def write_json(value: Any, path: Path) -> Path:
    """Write JSON to a file in an existing folder and return its path; it appears whole or not at all."""
    return write_whole([json.dumps(value, indent=1, allow_nan=False) + "\n"], path)


def write_whole(pieces: Iterable[str], path: Path) -> Path:
    """Write text, piece by piece, to a file in an existing folder; it appears whole or not at all."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.writelines(pieces)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return path
