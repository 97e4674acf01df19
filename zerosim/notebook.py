"""For notebooks: a job under the environment's own mpirun, code beside code, and what was predicted beside what came.

Ranks in the notebook's own process, to look inside, are `zerosim.run_threads`. A shell's `!mpirun` leaves a cell green
when the job has failed; here it raises.
"""

import difflib
import inspect
import logging
import numbers
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from zerosim.__main__ import parse
from zerosim.errors import Failed, InputError
from zerosim.jsonfile import read_json

WITHOUT_MPI = "ZEROSIM_WITHOUT_MPI"


class Job:
    """A job under mpirun: `zerosim` and its words, or a Python file and its words.

    Without --out, what it writes goes to `folder`, which is removed with the job, and a training draws no figures.
    A job that still runs when nobody refers to it any longer is killed. Raises InputError if there is no mpirun, or if
    the words are wrong.

    Where the environment variable ZEROSIM_WITHOUT_MPI is set (to more than 0), the N ranks are threads of one process
    that is no MPI job (`--ranks N`), as `command` says; InputError is raised for what that cannot do.
    """

    def __init__(self, N: int, *words: Any) -> None:
        _checked_ranks(N)
        self.words = [str(word) for word in words]
        script = bool(self.words) and self.words[0].endswith(".py")
        understood = None if script else parse(self.words)
        program = [sys.executable, *([] if script else ["-m", "zerosim"]), *self.words]
        shown = ["python", *program[1:]]
        if _without_mpi():
            more = _in_one_process(N, understood)
            program, shown = program + more, shown + more
        else:
            program, shown = [_launcher(), "-n", str(N), *program], ["mpirun", "-n", str(N), *shown]
        self.command = " ".join(shown)
        self._room = Path(tempfile.mkdtemp(prefix="zerosim-"))
        if hasattr(understood, "out") and "--out" not in program:
            program += ["--out", str(self._room / "out")]
            program += ["--no-figures"] if hasattr(understood, "figures") and "--figures" not in program else []
        self.folder = Path(program[program.index("--out") + 1]) if "--out" in program else self._room
        with open(self._room / "stdout", "w") as text, open(self._room / "stderr", "w") as said:
            self._process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=text,
                stderr=said,
                start_new_session=True,  # what interrupts the notebook is handed on below, once
            )
        self._line = _Line(f"$ {self.command}")
        weakref.finalize(self, _leave, self._process, self._room)

    @property
    def text(self) -> str:
        """What it has printed on standard output so far."""
        return (self._room / "stdout").read_text()

    @property
    def said(self) -> str:
        """What it has said on standard error so far: its progress, and what went wrong."""
        return (self._room / "stderr").read_text()

    @property
    def status(self) -> int | None:
        """The exit status; None: it has not ended."""
        return self._process.poll()

    @property
    def processes(self) -> list[int]:
        """The process ids of its ranks, in order, as a training with checkpoints says them itself when it begins.

        Raises InputError if its ranks are threads of one process.
        """
        if _without_mpi():
            raise InputError(f"the ranks of this job are threads of one process, for {WITHOUT_MPI} is set")
        return [int(number) for number in re.findall(r"(\d+) on ", self.wait_for("process "))]

    @property
    def report(self) -> dict[str, Any]:
        """The report that a training has written."""
        return read_json(str(self.folder / "report.json"), "report")

    def wait_for(self, beginning: str, seconds: float = 60) -> str:
        """Wait until it has said a line that begins so, and return the line.

        Raises Failed, with all that it has said, if it ends without one, and TimeoutError after so many seconds; the
        job is killed then.
        """
        line = self._until(
            lambda: next((line for line in self.said.splitlines() if line.startswith(beginning)), ""), seconds
        )
        if not line:
            raise Failed(f"the job has ended and said no line that begins with {beginning!r}:\n{self.said}")
        return line

    def signal(self, number: int, rank: int | None = None) -> None:
        """Send a signal to a rank's process, or to mpirun, which hands it on to all ranks."""
        os.kill(self._process.pid if rank is None else self.processes[rank], number)

    def end(self, seconds: float = 80) -> int:
        """Wait for the end and return the exit status; after so many seconds, kill the job and raise TimeoutError."""
        self._until(lambda: "", seconds)
        return self._process.wait()

    def _until(self, done: Callable[[], str], seconds: float) -> str:
        """Return what done() returns when that is something, or when the job has ended; show progress meanwhile."""
        limit = time.monotonic() + seconds
        try:
            while True:
                over = self._process.poll() is not None
                if (found := done()) or over:
                    return found
                if time.monotonic() > limit:
                    raise TimeoutError(f"{self.command}: not over after {seconds:g} s; it was killed\n{self.said}")
                self._line.show(self.said.strip().rpartition("\n")[2])
                time.sleep(0.02)
        except BaseException:
            _kill(self._process)
            raise
        finally:
            self._line.show("")


def mpirun(N: int, *words: Any, timeout: float = 80) -> Job:
    """Run `mpirun -n N python -m zerosim` and these words to the end, or a Python file if the first word is one.

    `mpirun(4, "train", "--stage", 2).report` is the report of a run on four processes. Raises Failed with what it said
    if its exit status is not 0, and what `Job` raises; the cell is red then.
    """
    job = Job(N, *words)
    if status := job.end(timeout):
        raise Failed(f"{job.command}: exit status {status}\n{job.said}")
    return job


def engines(N: int) -> Any:
    """Start N MPI processes that wait for code, and return ipyparallel's client: `%%px` cells run on all of them.

    `.shutdown(hub=True)` ends them. Raises InputError if ipyparallel or mpirun is missing.
    """
    try:
        import ipyparallel
    except ImportError:
        raise InputError("there is no ipyparallel in this environment: pip install 'zerosim[course]'") from None
    cluster = ipyparallel.Cluster(engines="mpi", n=N, log_level=logging.WARNING)
    cluster.config.MPILauncher.mpi_cmd = [_launcher()]
    return cluster.start_and_connect_sync(activate=True)


def source(*things: Any) -> None:
    """Show the source of functions, classes or modules of zerosim."""
    _code("\n\n".join(_source(thing) for thing in things), "python")


def diff(before: Any, after: Any, context: int = 3) -> None:
    """Show in which lines the source of a function, class or module differs from that of another."""
    _code(difference(before, after, context), "diff")


def difference(before: Any, after: Any, context: int = 3) -> str:
    """Return the unified diff of two functions, classes or modules."""
    one, other = (_source(thing).splitlines() for thing in (before, after))
    names = [getattr(thing, "__module__", None) or thing.__name__ for thing in (before, after)]
    return "\n".join(difflib.unified_diff(one, other, names[0], names[1], n=context, lineterm=""))


def compare(predicted: Mapping[str, Any], came: Mapping[str, Any], column: str = "counted") -> None:
    """Print what was predicted beside what came, by name; None is no prediction.

    `column` says over the second where it is from. A prediction that is more exact than what came is held against it
    as rounded: 31.25 beside 31.2 is as predicted. Of words, case and punctuation do not matter; True is "yes".
    """
    said = {name: predicted.get(name) for name in came}
    rows = [(name, _shown(said[name]), _shown(value), _how(said[name], value)) for name, value in came.items()]
    rows.insert(0, ("", "predicted", column, ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        name, *values, how = row
        right = (value.rjust(width) for value, width in zip(values, widths[1:], strict=False))
        print("  ".join([name.ljust(widths[0]), *right, how]).rstrip())


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for the length of a `with` block, for what a notebook writes."""
    with tempfile.TemporaryDirectory(prefix="zerosim-") as name:
        yield Path(name)


def _how(said: Any, value: Any) -> str:
    if said is None:
        return "not predicted"
    if _is_number(value):
        said = _as_number(said)
        if not _is_number(said):
            return "a number was asked for"
        if abs(said - value) <= _half_a_place(value):
            return "as predicted"
        if not value or not said / value > 0:
            return "otherwise"
        if abs(ratio := said / value - 1) < 0.1:
            return f"you said {100 * abs(ratio):.2g} % too {'much' if ratio > 0 else 'little'}"
        return f"you said {said / value:.3g} times as much"
    if isinstance(value, str | bool):
        return "as predicted" if _words(said) == _words(value) else "otherwise"
    return "as predicted" if said == value else "otherwise"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)


def _as_number(said: Any) -> Any:
    """The number that a text stands for, 4/3 too; anything else as it is."""
    if isinstance(said, Decimal):
        return float(said)
    if not isinstance(said, str):
        return said
    try:
        return float(Fraction(said.replace(",", "")))
    except (ValueError, ZeroDivisionError):
        return said


def _half_a_place(value: float) -> float:
    """By how much a number may differ from one that is shown with so many decimals, and be the same when rounded."""
    if value % 1 == 0:
        return 0.5 if abs(value) >= 100 else 1e-9
    return (0.5 + 1e-9) * 10.0 ** int(Decimal(_shown(value).replace(",", "")).as_tuple().exponent)


def _words(said: Any) -> list[str]:
    """What is compared of words: neither case nor punctuation; a list is its words, and True and "true" are yes."""
    several = said if isinstance(said, list | tuple | set) else [said]
    words = re.findall(r"[\w.%-]+", " ".join(map(str, several)).casefold().replace("_", " "))
    alike = {"true": "yes", "false": "no"}
    return [alike.get(word, word) for word in (word.strip(".") for word in words) if word not in ("", "and")]


def _shown(value: Any) -> str:
    """Whole numbers in full, others with six digits."""
    if value is None:
        return "-"
    if not _is_number(value):
        return str(value)
    return f"{int(value):,}" if value % 1 == 0 else f"{float(value):,.6g}"


def _source(thing: Any) -> str:
    return textwrap.dedent(inspect.getsource(thing)).rstrip()


def _code(text: str, language: str) -> None:
    if not _in_a_notebook():
        print(text)
        return
    from IPython.display import Code, display

    display(Code(text, language=language))


def _in_a_notebook() -> bool:
    """Whether an IPython kernel runs this, which can show more than text and change what it has shown."""
    shell = sys.modules.get("IPython")
    return bool(shell and getattr(shell.get_ipython(), "kernel", None))


class _Line:
    """A line in the cell's output that can be changed: the command, and under it how far it is."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._handle: Any = None
        self._shown: str | None = None

    def show(self, progress: str) -> None:
        if not _in_a_notebook() or progress == self._shown:
            return
        from IPython.display import display

        what = {"text/plain": f"{self._command}\n{progress}".rstrip()}
        if self._handle is None:
            self._handle = display(what, raw=True, display_id=True)
        else:
            self._handle.update(what, raw=True)
        self._shown = progress


def _checked_ranks(N: Any) -> None:
    if isinstance(N, bool) or not isinstance(N, numbers.Integral) or N < 1:
        raise InputError(f"{N!r} ranks: a whole number of 1 or more is needed")


def _without_mpi() -> bool:
    return os.environ.get(WITHOUT_MPI, "").casefold() not in ("", "0", "no", "false")


def _in_one_process(N: int, understood: Any) -> list[str]:
    """Return the words that let a command run on N ranks without MPI."""
    if hasattr(understood, "instead_of_mpi"):
        if understood.ranks not in (None, N):
            raise InputError(
                f"--ranks {understood.ranks} besides N = {N}: leave --ranks out, N says how many there are"
            )
        return [] if understood.ranks else ["--ranks", str(N)]
    if N > 1:
        raise InputError(f"this needs {N} processes of MPI, and {WITHOUT_MPI} is set: skip it, or unset that")
    return []


def _launcher() -> str:
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if not found:
        raise InputError(
            "there is no mpirun in this environment: pip install 'zerosim[mpi]', or load your cluster's MPI, "
            f"or set {WITHOUT_MPI}=1 for ranks in one process"
        )
    return found


def _kill(process: subprocess.Popen) -> None:
    """Kill mpirun, if it has not ended, and with it all ranks."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _leave(process: subprocess.Popen, room: Path) -> None:
    _kill(process)
    shutil.rmtree(room, ignore_errors=True)
