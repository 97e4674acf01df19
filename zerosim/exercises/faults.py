"""What a crash leaves, what it costs, and who reads what when the ranks are others."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zerosim.checkpoint.manifest import MANIFEST, checkpoints, folder_name, shard_name
from zerosim.checkpoint.shards import Index, shard_runs
from zerosim.config import Config
from zerosim.data import make_dataset
from zerosim.exercises.numbers import answer, number, whole
from zerosim.exercises.verdict import Wrong, exercise, in_time, wanted
from zerosim.parallel import Grid
from zerosim.train import train
from zerosim.words import counted

RANKS = (1, 2, 3, 4, 7)


@exercise
def check_lost_steps(function: Callable[[int, int, bool], Any]) -> str:
    """`function(done, every, writing)` returns how many steps must be done again when a rank is killed.

    `done` steps were done, and a checkpoint is written after every `every`-th. `writing`: the job was at that, if one
    was due after step `done`. Compared with what real trainings had in their folders at these moments.
    """
    wanted(function, "done", "every", "writing")
    moments = 0
    for every in (5, 3, 1):
        for (done, writing), newest in _newest(every).items():
            moments += 1
            at = " as the checkpoint of that step was being written" if writing and done % every == 0 else ""
            what = f"{counted(done, 'step')} done, a checkpoint every {every}, killed{at}"
            if (got := number(in_time(function, done, every, writing), what)) != done - newest:
                raise Wrong(f"{what}: you say {got:g}, it is {done - newest}: {_lost(got, done, every, at, newest)}")
    return f"{moments} moments of 3 trainings"


def _newest(every: int) -> dict[tuple[int, bool], int]:
    """By (steps done, writing), the step of the newest whole checkpoint of a training, 0 if there is none.

    A step's progress is told when it is done and its checkpoint is not yet begun: all before that are whole.
    """
    found: dict[tuple[int, bool], int] = {}
    with tempfile.TemporaryDirectory(prefix="zerosim-") as folder:

        def look(stage: int, step: int, steps: int, loss: float) -> None:
            there = checkpoints(Path(folder))
            newest = int(there[-1].name.removeprefix("step-")) if there else 0
            found[step, True] = newest
            found[step - 1, False] = newest

        settings: dict[str, Any] = {"hidden": (), "steps": 11, "batch_size": 4, "test_fraction": 0.0, "stages": (0,)}
        data = make_dataset("a plane", np.ones((8, 2)), np.ones((8, 1)))
        train(Config(**settings, checkpoint=folder, checkpoint_every=every), None, data, look)
    return found


def _lost(got: float, done: int, every: int, at: str, newest: int) -> str:
    """Say what a wrong number is."""
    if at and got == done % every:
        return f"what is being written has no name yet, so the newest whole one is of step {newest}"
    if got == newest:
        return f"step {newest} is what the training goes on from; lost is what came after it"
    if got == every or got == every - 1:
        return f"that is the most that can be lost; here the newest whole one is of step {newest}"
    return f"the newest whole checkpoint is of step {newest}"


@exercise
def check_reshard(function: Callable[[int, int, int, int], Any]) -> str:
    """`function(P, N, M, rank)` returns what new rank `rank` of M reads: (old shard, start, stop), in order.

    A layer of P elements was written by N ranks, a slice each, without the padding at the end. The positions count
    from the beginning of an old shard.
    """
    wanted(function, "P", "N", "M", "rank")
    shards = 0
    for P, N, M in [(P, N, M) for P in (650, 10) for N in RANKS for M in RANKS]:
        elements, widths = np.arange(P), [P - 1, 1]
        old = [elements[_own(widths, N, r)] for r in range(N)]
        index = Index(widths, Grid(N), 0)
        for rank in range(M):
            shards += 1
            got = in_time(function, P, N, M, rank)
            _read(got, old, elements[_own(widths, M, rank)], index, f"P = {P}, N = {N}, M = {M}, new rank {rank}")
    return f"{shards} new shards"


def _own(widths: list[int], N: int, rank: int) -> slice:
    """Which elements of one layer a rank owns."""
    starts, lengths = shard_runs(widths, Grid(N), 0, rank)
    return slice(int(starts[0]), int(starts[0] + lengths[0])) if len(starts) else slice(0, 0)


def _read(got: Any, old: list[np.ndarray], mine: np.ndarray, index: Index, what: str) -> None:
    try:
        reads = [tuple(whole(each, what) for each in (shard, start, stop)) for shard, start, stop in got]
    except (TypeError, ValueError):
        raise Wrong(f"{what}: it returns {answer(got)}; it must be a list of (old shard, start, stop)") from None
    for shard, start, stop in reads:
        if not 0 <= shard < len(old):
            raise Wrong(f"{what} reads shard {shard}; there are 0 to {len(old) - 1}")
        if not 0 <= start <= stop <= old[shard].size:
            behind = ": padding is not written" if stop > old[shard].size else ""
            there = counted(old[shard].size, "element")
            raise Wrong(f"{what} reads {start} to {stop} of shard {shard}, which has {there}{behind}")
    read = np.concatenate([mine[:0], *(old[shard][start:stop] for shard, start, stop in reads)])
    length = min(read.size, mine.size)
    if (wrong := read[:length] != mine[:length]).any():
        at = int(wrong.argmax())
        ((shard, where, _),) = index.find(int(mine[at]), 1)
        raise Wrong(
            f"{what}: number {at} of its slice is element {mine[at]} of the layer, which is number {where.start} of "
            f"shard {shard}; you read element {read[at]}. Old slices are {old[0].size} long, "
            f"the {'last one is' if len(old) > 1 else 'only one is'} {old[-1].size}"
        )
    if read.size != mine.size:
        more, many = abs(read.size - mine.size), "many" if read.size > mine.size else "few"
        raise Wrong(
            f"{what} reads {counted(read.size, 'element')} and owns {mine.size}: {4 * more} bytes of fp32 too {many}"
        )


# a disk that may crash -----------------------------------------------------------------------------------------------


class Disk:
    """A disk on which nothing is sure until it is synced: `mkdir`, `write`, `sync`, `rename` and `remove` names.

    Names are "a" or "a/b"; "" is the folder of all. What was written to a file may be half there after a crash, until
    the file is synced. What changed in a folder (a name that is new, another, or gone) may be there or not, up to any
    of the changes, until that folder is synced. A folder is removed file by file.
    """

    def __init__(self) -> None:
        self._root = _Folder()
        self._after: Callable[[str], None] = lambda what: None
        """Called after each change, when the power may fail."""

    def mkdir(self, name: str) -> None:
        """Make a folder."""
        self._put(name, _Folder(), f"mkdir({name!r})")

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self._put(name, _File(data), f"write({name!r})")

    def sync(self, name: str) -> None:
        """Wait until a file's contents, or the names in a folder, are on the disk."""
        self._find(name).sync()
        self._after(f"sync({name!r})")

    def rename(self, name: str, new: str) -> None:
        """Rename a file or a folder, within its folder, in one go."""
        folder, own = self._folder(name)
        if folder is not self._folder(new)[0]:
            raise Wrong(f"rename({name!r}, {new!r}): both must be in the same folder")
        what = self._find(name)
        folder.change({key: value for key, value in folder.names.items() if key != own} | {self._folder(new)[1]: what})
        self._after(f"rename({name!r}, {new!r})")

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        what, (folder, own) = self._find(name), self._folder(name)
        for inner in list(what.names) if isinstance(what, _Folder) else ():
            self.remove(f"{name}/{inner}")
        folder.change({key: value for key, value in folder.names.items() if key != own})
        self._after(f"remove({name!r})")

    def now(self) -> dict[str, Any]:
        """Return what is there if nothing crashes: bytes by name, a dict for a folder."""
        return self._root.now()

    def crashes(self) -> Iterator[dict[str, Any]]:
        """Yield what a crash now may leave."""
        return self._root.crashes()

    def _folder(self, name: str) -> "tuple[_Folder, str]":
        outer, _, own = name.rpartition("/")
        folder = self._find(outer)
        if not isinstance(folder, _Folder):
            raise Wrong(f"{outer!r} is a file, and has no {own!r} in it")
        return folder, own

    def _find(self, name: str) -> "_Folder | _File":
        found: _Folder | _File = self._root
        for part in name.split("/") if name else ():
            if not isinstance(found, _Folder) or part not in found.names:
                raise Wrong(f"there is no {name!r} on the disk")
            found = found.names[part]
        return found

    def _put(self, name: str, what: "_Folder | _File", said: str) -> None:
        folder, own = self._folder(name)
        folder.change({**folder.names, own: what})
        self._after(said)


class _File:
    def __init__(self, data: bytes) -> None:
        self.data, self.synced = bytes(data), False

    def sync(self) -> None:
        self.synced = True

    def now(self) -> bytes:
        return self.data

    def crashes(self) -> Iterator[bytes]:
        yield self.data if self.synced else self.data[: len(self.data) // 2]


class _Folder:
    def __init__(self) -> None:
        self.names: dict[str, _Folder | _File] = {}
        self._since = [self.names]
        """The names as they were when the folder was last synced, and after each change since then."""

    def change(self, names: "dict[str, _Folder | _File]") -> None:
        self.names = names
        self._since.append(names)

    def sync(self) -> None:
        self._since = [self.names]

    def now(self) -> dict[str, Any]:
        return {name: what.now() for name, what in self.names.items()}

    def crashes(self) -> Iterator[dict[str, Any]]:
        for names in self._since:
            for left in itertools.product(*(what.crashes() for what in names.values())):
                yield dict(zip(names, left, strict=True))


OLD, NEW = folder_name(10), folder_name(20)


@exercise
def check_commit_order(function: Callable[[Disk, dict[str, bytes], str, str], Any]) -> str:
    """`function(disk, files, old, new)` writes the checkpoint `new`, which is on the disk when it returns; `old` goes.

    `files` are bytes by name, the manifest among them. After each call of a method of the disk the power may fail: what
    has the name of a checkpoint must then be whole, and one must be there.
    """
    wanted(function, "disk", "files", "old", "new")
    names = [*(shard_name(rank) for rank in range(2)), MANIFEST]
    files = {name: f"{name} of {NEW}".encode() for name in names}
    whole = {OLD: {name: f"{name} of {OLD}".encode() for name in names}, NEW: files}
    disk, calls, found = Disk(), list[str](), list[Wrong]()
    disk.mkdir(OLD)
    for name, data in whole[OLD].items():
        disk.write(f"{OLD}/{name}", data)
        disk.sync(f"{OLD}/{name}")
    disk.sync(OLD)
    disk.sync("")

    def after(what: str) -> None:
        calls.append(what)
        for left in disk.crashes():
            try:
                _look(left, whole, f"a crash after call {len(calls)}, {what},")
            except Wrong as wrong:
                found.append(wrong)  # said at the end, too: a solution may catch what is raised
                raise

    disk._after = after
    in_time(function, disk, dict(files), OLD, NEW)
    if found:
        raise found[0]
    if disk.now().get(NEW) != files:
        raise Wrong(f"it returns, and there is no {NEW} with all files; there are {', '.join(sorted(disk.now()))}")
    for left in disk.crashes():
        if NEW not in left:
            raise Wrong(
                f"it returns, and a crash may still leave a disk without {NEW}: its new name is not on the disk until "
                'the folder that the name is in, "", is synced'
            )
    if left_over := sorted(disk.now().keys() - {NEW}):
        raise Wrong(f"it returns, and {left_over[0]} is still there: with each checkpoint the disk becomes fuller")
    return f"whole after a crash at each of {len(calls)} calls"


def _look(left: dict[str, Any], whole: dict[str, dict[str, bytes]], when: str) -> None:
    """Raise Wrong if what a crash has left has the name of a checkpoint and is none, or if there is none."""
    for folder, files in whole.items():
        if folder not in left or left[folder] == files:
            continue
        name = next((name for name in files if left[folder].get(name) != files[name]), None)
        if name is None:
            what = f"and in it {min(left[folder].keys() - files.keys())}, which is no part of it"
        elif name in left[folder]:
            what = f"and half of {name}: nobody waited until that file was on the disk (sync)"
        elif folder == OLD:
            what = f"without {name}: a folder is removed file by file, so it must lose its name first, on the disk too"
        else:
            what = f"without {name}: all files must be in it, and their names synced in it, before it has its own"
        raise Wrong(f"{when} may leave {folder} {what}")
    if not whole.keys() & left.keys():
        raise Wrong(f"{when} may leave no checkpoint at all: {OLD} has gone, and the name {NEW} is not on the disk yet")
