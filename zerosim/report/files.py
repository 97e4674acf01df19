"""The folder for the artifacts, and report.json in it."""

import os
from pathlib import Path
from typing import Any

from zerosim.errors import InputError
from zerosim.jsonfile import write_json


def make_folder(name: str, *files: str) -> Path:
    """Make the folder for the artifacts, if need be. Raises InputError if it, or any of `files`, cannot be written."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"out {name}: cannot write to this folder ({reason})") from None
    for file in files:
        if (folder / file).is_dir():
            raise InputError(f"out {name}: {file} is a folder there, where a file of that name is to be written")
    return folder


def write_report(report: dict[str, Any], folder: str | Path) -> Path:
    """Write report.json into an existing folder and return its path."""
    return write_json(report, Path(folder) / "report.json")
