"""The command `bench`: a step beside its floor, collectives, PyTorch doing the same, and many ranks."""

import argparse

from zerosim.bench.shared import Task
from zerosim.commands.bench import scale, step, torch
from zerosim.commands.collectives import bench as contest
from zerosim.commands.collectives import bench_flags
from zerosim.commands.common import Commands, parts_of

_STANDARD = Task()


def add(commands: Commands) -> None:
    """Describe the command, its sub-commands and their flags."""
    text = "measure: a step and its floor, collectives, PyTorch doing the same, many ranks"
    p = commands.add_parser("bench", help=text, description=text, allow_abbrev=False)
    part = parts_of(p, "step|collectives|torch|scale")

    q = part("step", step.run, "under mpirun: a step at each stage, split, beside the floor of what it has to do")
    _task(q, _STANDARD.widths)
    _timing(q)
    _output(q)

    q = part("collectives", contest.run, "under mpirun: explicit collectives against the MPI library's own")
    bench_flags(q)

    q = part("torch", torch.run, "under mpirun: each stage against its counterpart in PyTorch, over gloo")
    _task(q, _STANDARD.widths, numbers=False)
    _timing(q)
    _output(q)

    q = part("scale", scale.run, "time, bytes and memory per rank as the number of ranks grows")
    _task(q, scale.WIDTHS)
    q.add_argument("--ranks", metavar="1,2,4", help="numbers of ranks (default: 1, 2, 4, … up to 32, or to mpirun's)")
    q.add_argument("--steps", type=int, default=5, metavar="S", help="steps of each training (default: 5)")
    _output(q)


def _task(q: argparse.ArgumentParser, widths: tuple[int, ...], numbers: bool = True) -> None:
    default = ",".join(map(str, widths))
    q.add_argument("--stages", "--stage", default="0,1,2,3", metavar="0,1,2,3", help="which stages (default: all)")
    q.add_argument("--layers", default=default, metavar="A,B,C", help=f"widths, inputs first (default: {default})")
    q.add_argument("--rows", type=int, default=64, metavar="R", help="rows per rank and step (default: 64)")
    if numbers:
        q.add_argument("--precision", default="fp32", metavar="fp32|fp16|bf16", help="(default: fp32)")
    q.add_argument("--optimizer", default="adam", metavar="NAME", help="(default: adam)")
    q.add_argument("--collective", default="auto", metavar="NAME", help="who moves the bytes (default: auto)")


def _timing(q: argparse.ArgumentParser) -> None:
    q.add_argument("--seconds", type=float, default=8.0, metavar="S", help="about how long per stage (default: 8)")
    q.add_argument("--wire", default="shared", metavar="shared|tcp", help="shared memory (default), or TCP with MPICH")


def _output(q: argparse.ArgumentParser) -> None:
    text = "folder for the figure and the numbers (default: zerosim-out)"
    q.add_argument("--out", default="zerosim-out", metavar="DIR", help=text)
    q.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")
