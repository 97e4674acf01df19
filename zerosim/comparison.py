"""Runs side by side: what a setting does to memory, traffic, loss and accuracy."""

from pathlib import Path
from typing import Any

from zerosim.errors import InputError
from zerosim.jsonfile import read_json
from zerosim.report import console_text, number, plain_table, sent_on_average, si, total_at_rest, updates_here

_OUTPUTS = ("out", "save")
"""Settings that say where things are written."""


def compare(width: int = 80, **reports: dict[str, Any] | str | Path) -> str:
    """Return a table with a row per report and stage, and the settings in which the reports differ, as text.

    Reports are named by the caller and are those of `build_report`, or names of files report.json. Bytes are the
    fullest and the busiest rank's, as counted; "norms" is what pruning sends. Raises InputError for a file that cannot
    be read, and for what is no report.
    """
    loaded = {name: _loaded(report) for name, report in reports.items()}
    try:
        return _compared(loaded, width)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"reports: one of them is no report of a training ({type(error).__name__}: {error})") from None


def _compared(loaded: dict[str, dict[str, Any]], width: int) -> str:

    regression = any(report["data"]["task"] == "regression" for report in loaded.values())
    table = plain_table()
    table.add_column("", no_wrap=True)
    what = "loss" if regression else "accuracy"
    for title in ("stage", "at rest", "peak", "sent per\nstep", "norms per\nstep", "train\nloss", f"test\n{what}"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, report in loaded.items():
        for run in report["runs"]:
            last, pruning = run["epochs"][-1], run.get("pruning")
            table.add_row(
                name,
                str(run["stage"]),
                si(total_at_rest(run)[0]),
                si(max(own["total"] for own in run["memory"]["peak"]["measured"])),
                si(sent_on_average(run)),
                si(_norms(run)) if pruning else "-",
                number(last["train_loss"]),
                number(last[f"test_{what}"]),
            )
    return console_text(table, *_differences(loaded), width=width)


def _loaded(report: dict[str, Any] | str | Path) -> dict[str, Any]:
    return report if isinstance(report, dict) else read_json(str(report), f"report {report}")


def _norms(run: dict[str, Any]) -> float:
    """Bytes that the busiest rank sends for norms in a step that updates the weights."""
    return max(own["sent"] for own in run["pruning"]["traffic"]["measured"]) / max(1, updates_here(run))


def _differences(reports: dict[str, dict[str, Any]]) -> list[str]:
    """Say in which settings the reports differ, numbers of ranks among them."""
    settings = [{"world_size": report["world_size"], **report["config"]} for report in reports.values()]
    names = dict.fromkeys(name for own in settings for name in own if name not in _OUTPUTS)
    lines = []
    for name in names:
        values = [own.get(name) for own in settings]
        if any(value != values[0] for value in values):
            lines.append(f"{name}: {', '.join('-' if value is None else str(value) for value in values)}")
    return [f"They differ in {'; '.join(lines)}."] if lines else ["All settings are the same."]
