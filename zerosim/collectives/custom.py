"""A reader's own algorithm: a function of (rank, N) in a Python file, which yields exchanges.

    from zerosim.collectives import Exchange

    def my_ring(rank, N):
        for s in range(N - 1):
            yield Exchange(to=(rank + 1) % N, send=(rank - s) % N,
                           source=(rank - 1) % N, recv=(rank - 1 - s) % N, reduce=False)

Its verb is found by trying what it does (`check.verb_of`), or said: a function called as a verb is one for that verb.
"""

import ast
import types
from functools import lru_cache
from pathlib import Path

from zerosim.collectives.check import describe, verb_of
from zerosim.collectives.exchange import VERBS, Generator


def load(path: str, name: str = "", verb: str | None = None) -> dict[str, Generator]:
    """Return the function `name` of a Python file, by its verb; without a name, all functions named as a verb.

    `verb` says what the function is meant to be. Raises ValueError, naming file and line, if the file cannot be read
    or run, or has no such function.
    """
    module = _run(path, _written(path))
    names = [name] if name else [verb for verb in VERBS if hasattr(module, verb)]
    if not names:
        raise ValueError(f"{path} has no function called {', '.join(VERBS)}; say which one: {path}:NAME")
    for wanted in names:
        if not callable(getattr(module, wanted, None)):
            raise ValueError(
                f"{path} has no function called {wanted!r}; it has {', '.join(_functions(path)) or 'none'}"
            )
    return {
        verb or (wanted if wanted in VERBS else verb_of(getattr(module, wanted))): getattr(module, wanted)
        for wanted in names
    }


def _written(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache
def _run(path: str, written: int) -> types.ModuleType:
    """Run a file and return its names; again only if it was written since."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path}: this is a folder, a pipe or a device; it must be a file")
        source = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    module = types.ModuleType(Path(path).stem)
    module.__file__ = path
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be run: {describe(error)}") from None
    return module


def _functions(path: str) -> list[str]:
    return [
        node.name
        for node in ast.parse(Path(path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
