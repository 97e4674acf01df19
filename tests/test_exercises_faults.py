"""Solutions of the exercises on faults, right ones and wrong ones."""

import re
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from zerosim.exercises import check_commit_order, check_lost_steps, check_reshard


def lost(done, every, writing):
    return every if writing and done and done % every == 0 else done % every


def by_newest(done, every, writing):
    return np.int64(done - (done - (1 if writing else 0)) // every * every)


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (lost, "Right: 66 moments of 3 trainings"),
        (by_newest, "Right"),
        (lambda *moment: None, "Not yet: .*killed: it returns nothing .None., and must return a number"),
        (
            lambda done, every, writing: done % every,
            ".*being written: you say 0, it is 5: what is being written has no",
        ),
        (lambda done, every, writing: every, ".*that is the most that can be lost; here the newest whole one is of"),
        (
            lambda *moment: moment[0] - by_newest(*moment),
            ".*is what the training goes on from; lost is what came after",
        ),
        (lambda done, every, writing: done, ".*6 steps done, .* you say 6, it is 1: the newest whole .* is of step 5"),
    ],
)
def test_lost_steps(solution, says):
    assert re.match(says, repr(check_lost_steps(solution)))


def reads(P, N, M, rank, size=lambda P, N: -(-P // N), padded=False):
    begin, end = rank * size(P, M), (rank + 1) * size(P, M)
    end = end if padded else min(end, P)
    for shard in range(N):
        first, last = shard * size(P, N), min((shard + 1) * size(P, N), 10**9 if padded else P)
        if max(first, begin) < min(last, end):
            yield shard, max(first, begin) - first, min(last, end) - first


def element_by_element(P, N, M, rank):
    old, new = -(-P // N), -(-P // M)
    return [(np.int64(i // old), i % old, i % old + 1) for i in range(rank * new, min(P, rank * new + new))]


def whole_shards(P, N, M, rank):
    return [(shard, 0, min(P, (shard + 1) * -(-P // N)) - shard * -(-P // N)) for shard in range(N)]


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (reads, "Right: 170 new shards"),
        (element_by_element, "Right"),
        (
            lambda *case: None,
            r"Not yet: P = 650, N = 1, M = 1, new rank 0: it returns nothing \(None\); it must be a list of",
        ),
        (
            lambda P, N, M, rank: [(s, a + 0.5, b + 0.9) for s, a, b in reads(P, N, M, rank)],
            ".* it returns 0.5, and must",
        ),
        (whole_shards, ".*N = 1, M = 2, new rank 0 reads 650 elements and owns 325: 1300 bytes of fp32 too many"),
        (
            lambda *case: reads(*case, size=lambda P, N: P // N),
            ".*N = 1, M = 3, new rank 0 reads 216 elements and owns 217: 4 bytes of fp32 too few",
        ),
        (
            lambda *case: reads(*case, padded=True),
            ".*N = 3, M = 3, new rank 2 reads 0 to 217 of shard 2, which has 216 elements: padding is not written",
        ),
        (
            lambda P, N, M, rank: list(reads(P, N, M, rank))[::-1],
            ".*N = 2, M = 1, new rank 0: number 0 of its slice is element 0 of the layer, .* you read element 325. Old",
        ),
        (
            lambda P, N, M, rank: [(s, a + s * -(-P // N), b + s * -(-P // N)) for s, a, b in reads(P, N, M, rank)],
            ".*N = 2, M = 1, new rank 0 reads 325 to 650 of shard 1, which has 325",
        ),
        (
            lambda P, N, M, rank: [(rank, 0, 1)],
            ".*new rank 0 reads 1 element and owns 650: 2596 bytes of fp32 too few",
        ),
        (lambda P, N, M, rank: [(rank + 1, 0, 1)], ".*reads shard 1; there are 0 to 0"),
    ],
)
def test_reshard(solution, says):
    assert re.match(says, repr(check_reshard(solution)))


ALL = ("write", "sync files", "sync aside", "rename", "sync", "old", "sync old", "remove")


def save(disk, files, old, new, steps=ALL, aside=".aside", dying=".dying"):
    for step in steps:
        if step == "write":
            disk.mkdir(aside)
            for name in files:
                disk.write(f"{aside}/{name}", files[name])
        elif step == "sync files":
            for name in files:
                disk.sync(f"{aside}/{name}")
        elif step == "sync aside":
            disk.sync(aside)
        elif step == "rename":
            disk.rename(aside, new)
        elif step in ("sync", "sync old"):
            disk.sync("")
        elif step == "old":
            disk.rename(old, dying)
        elif step == "remove":
            disk.remove(dying if "old" in steps else old)


def one_at_a_time(disk, files, old, new):
    """The manifest first, each file synced at once; the old one goes as in zerosim."""
    disk.mkdir("x")
    for name in sorted(files):
        disk.write(f"x/{name}", files[name])
        disk.sync(f"x/{name}")
    disk.sync("x")
    disk.sync("")
    disk.rename("x", new)
    disk.sync("")
    disk.rename(old, "y")
    disk.sync("")
    disk.remove("y")


def silent(disk, files, old, new):
    """Written in place, and what the disk says is not heard."""
    for call in (lambda: disk.mkdir(new), *(partial(disk.write, f"{new}/{name}", files[name]) for name in files)):
        with suppress(Exception):
            call()
    for name in (*(f"{new}/{name}" for name in files), new, ""):
        disk.sync(name)
    disk.rename(old, "x")
    disk.sync("")
    disk.remove("x")


def without(*left_out):
    return lambda *case: save(*case, steps=[step for step in ALL if step not in left_out])


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (save, "Right: whole after a crash at each of 16 calls"),
        (one_at_a_time, "Right"),
        (lambda *case: None, "Not yet: it returns, and there is no step-00000020 with all files"),
        (without("sync files"), r".*rename.*, may leave step-00000020 and half of rank-0000.*: nobody waited"),
        (
            without("sync aside"),
            r".*rename.*, may leave step-00000020 without rank-0000.*all files must be in it, and their",
        ),
        (without("sync old"), r".*remove\('.dying/rank.* may leave step-00000010 without .* first, on the disk too"),
        (without("old"), r".*remove\('step-00000010/rank-0000.*may leave step-00000010 without .* file by file"),
        (without("sync", "sync old", "remove"), ".*its new name is not on the disk until the folder .*, is synced"),
        (without("remove"), ".*it returns, and .dying is still there"),
        (without("old", "remove"), ".*it returns, and step-00000010 is still there"),
        (without("sync", "sync old"), ".*dying/.*may leave step-00000010 without"),
        (
            lambda disk, *case: (save(disk, *case), disk.rename(case[2], "z"), disk.rename("z", case[2])),
            ".*rename.'step-00000020', 'z'.*may leave no checkpoint at all: step-00000010 has gone",
        ),
        (
            lambda *case: save(*case, aside=case[3]),
            r".*call 1, mkdir\('step-00000020'\), may leave step-00000020 without",
        ),
        (
            lambda *case: save(*case, steps=["old", "remove", "write", "sync files", "sync aside", "rename", "sync"]),
            r".*call 1, rename\('step-00000010', '.dying'\), may leave no checkpoint at all: step-00000010 has gone",
        ),
        (silent, r".*call 5, sync\('step-00000020/rank-0000.*may leave step-00000020 without rank-0000"),
        (lambda disk, files, old, new: disk.sync("there"), ".*there is no 'there' on the disk"),
    ],
)
def test_commit_order(solution, says):
    assert re.match(says, repr(check_commit_order(solution)))
