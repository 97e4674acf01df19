"""What one hears about ZeRO, each claim run as a small experiment: the numbers decide.

The claims are in modules by their subject, imported here; a module of others is imported here too. `check` runs them.
"""

from collections.abc import Iterable
from typing import Any

import zerosim
from zerosim import words
from zerosim.myths import mathematics, memory, parallelism, pruning, traffic
from zerosim.myths.claims import CLAIMS, Claim, Verdict
from zerosim.myths.lab import Lab

SCHEMA, LISTING = "zerosim.myths/1", "zerosim.myths.list/1"

__all__ = ["CLAIMS", "Claim", "Lab", "Verdict", "check", "format_claims", "format_myths", "listing", "mathematics"]
__all__ += ["memory", "parallelism", "picked", "pruning", "traffic"]


def picked(names: Iterable[str]) -> list[Claim]:
    """Return the claims of these names, or all if there are none. Raises InputError for a name that is not known."""
    return words.picked("myths", "claim", names, CLAIMS)


def check(lab: Lab, *names: str) -> dict[str, Any]:
    """Run the experiments of these claims (none named: of all) on a lab's ranks and judge them.

    Returns JSON types, the same on every rank: "claims" is a list of {"name", "claim", "numbers" as counted,
    "measured" in a sentence, "verdict", "source"}. Raises InputError for a name that is not known.
    """
    results = []
    chosen = picked(names)
    for number, each in enumerate(chosen, 1):
        lab.about = f"{each.name} ({number} of {len(chosen)})"
        numbers = each.measure(lab)
        verdict = each.verdict(numbers)
        results.append(
            {
                "name": each.name,
                "claim": each.text,
                "numbers": numbers,
                "measured": verdict.measured,
                "verdict": verdict.word,
                "source": each.source,
            }
        )
    return {
        "schema": SCHEMA,
        "zerosim": zerosim.__version__,
        "ranks": lab.N,
        "backend": lab.backend,
        "seed": lab.seed,
        "claims": results,
    }


def format_myths(report: dict[str, Any], width: int = 80) -> str:
    """Return what `check` found as a table of at most `width` columns."""
    from zerosim.report import console_text, plain_table

    table = plain_table(2, show_lines=True, expand=True)
    table.add_column("claim", ratio=22)
    table.add_column("measured", ratio=40)
    table.add_column("verdict", ratio=14)
    for each in report["claims"]:
        table.add_row(
            f"{each['claim']}\n({each['name']})", f"{each['measured']}\nSource: {each['source']}.", each["verdict"]
        )
    heading = (
        f"{report['ranks']} ranks ({report['backend']}), seed {report['seed']}; all numbers were counted just now."
    )
    return console_text(heading, table, width=width)


def listing() -> dict[str, Any]:
    """Return all claims as JSON types, nothing measured: "claims" is a list of {"name", "claim", "source"}."""
    claims = [{"name": each.name, "claim": each.text, "source": each.source} for each in CLAIMS.values()]
    return {"schema": LISTING, "zerosim": zerosim.__version__, "claims": claims}


def format_claims(width: int = 80) -> str:
    """Return the names of all claims, and the claims."""
    from zerosim.report import name_list

    return name_list("name", "claim", ((each.name, each.text) for each in CLAIMS.values()), width)
