"""A bug is one function of zerosim with a few of its lines changed, and what one should know of it.

Nothing is copied: the broken source is made of the right one, which it cannot fall behind. While `swapped` is on, the
function itself has other code, so that everybody who imported it runs the broken one.
"""

import difflib
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from zerosim.data import Dataset

Function = Callable[..., Any]


@dataclass(frozen=True)
class Bug:
    """A mistake. All texts are sentences for a reader; `edits` are (lines of the right source, what stands there)."""

    name: str
    title: str
    target: Function
    """The function or method that is broken."""
    edits: tuple[tuple[str, str], ...]
    noticed: str
    """What somebody who has the bug would come and complain of, and what does not give it away."""
    symptom: str
    """How a user would notice, or not."""
    instrument: str
    """The one of `zerosim.gallery.INSTRUMENTS` that is made for it."""
    lesson: str
    seen: str
    """Where the mistake was reported; or that no report was found, and why it is plausible."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the training in which it shows, as `zerosim.Config` takes them."""
    data: Callable[[Dataset], Dataset] | None = None
    """What makes of the built-in digits the data in which it shows; None: they are taken as they are."""

    @property
    def place(self) -> str:
        """Where the broken function is, as Python names it."""
        return f"{self.target.__module__}.{self.target.__qualname__}"

    @property
    def right(self) -> str:
        """The right source."""
        return source(self.target)

    @property
    def wrong(self) -> str:
        """The broken source. Raises ValueError if what is to be changed is not there, or not once."""
        text = self.right
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {self.place} has {old!r} {text.count(old)} times, not once")
            text = text.replace(old, new)
        return text

    def diff(self, context: int = 2) -> list[str]:
        """Return the lines of a diff from the right source to the broken one, with so many lines around a change."""
        lines = difflib.unified_diff(self.right.splitlines(), self.wrong.splitlines(), n=context, lineterm="")
        return list(lines)[2:]  # not the names of two files


def source(function: Function) -> str:
    """Return a function's source, as if it stood at the beginning of a line."""
    return textwrap.dedent(inspect.getsource(function))


@contextmanager
def swapped(target: Function, replacement: Function | str) -> Iterator[None]:
    """For the length of a `with` block, let `target` do what another function, or its source, says.

    The other one is read as if it stood in the target's module, and has the target's name and arguments. Ranks in
    threads must be started and over within the block; it is not for two threads that swap at the same time. Raises
    ValueError for a source that does not define that function.
    """
    function = inspect.unwrap(target)
    right = function.__code__
    function.__code__ = _compiled(function, replacement if isinstance(replacement, str) else source(replacement))
    try:
        yield
    finally:
        function.__code__ = right


def _compiled(function: Function, text: str) -> CodeType:
    """Compile a source in the module of the function that it replaces; a traceback can show its lines."""
    name = f"<{function.__module__}.{function.__qualname__}, changed>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    names = dict(function.__globals__)
    exec(compile(textwrap.dedent(text), name, "exec"), names)
    made = names.get(function.__name__)
    if not callable(made) or made is function.__globals__.get(function.__name__):
        raise ValueError(f"the source must define a function {function.__name__}")
    code = inspect.unwrap(made).__code__
    if code.co_varnames[: code.co_argcount] != function.__code__.co_varnames[: function.__code__.co_argcount]:
        raise ValueError(f"{function.__name__} must have the arguments {inspect.signature(function)}")
    return code
