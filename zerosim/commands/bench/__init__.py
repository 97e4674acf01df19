"""The command `bench`: a step beside its floor, collectives, PyTorch doing the same, many ranks, and checkpoints."""

import argparse

from zerosim.bench.shared import Task
from zerosim.commands.bench import checkpoint, scale, step, torch
from zerosim.commands.collectives import bench as contest
from zerosim.commands.collectives import bench_flags
from zerosim.commands.common import Commands, parts_of

_STANDARD = Task()


def add(commands: Commands) -> None:
    """Describe the command, its sub-commands and their flags."""
    text = "measure: a step and its floor, collectives, PyTorch doing the same, many ranks, checkpoints"
    p = commands.add_parser("bench", help=text, description=text, allow_abbrev=False)
    part = parts_of(p, "step|collectives|torch|scale|checkpoint")

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

    q = part("checkpoint", checkpoint.run, "bytes and time of a checkpoint against the model's size")
    widths = ",".join(map(str, checkpoint.HIDDEN))
    q.add_argument("--widths", default=widths, metavar="A,B,C", help=f"hidden widths of 784 x W x W x 10 ({widths})")
    q.add_argument("--ranks", metavar="1,2,4", help="numbers of ranks (default: 1, 2, 4, or up to mpirun's)")
    q.add_argument("--stage", "--stages", dest="stages", default="3", metavar="S", help="(default: 3)")
    _numbers(q)
    q.add_argument("--seconds", type=float, default=2.0, metavar="S", help="about how long for each (default: 2)")
    _output(q)
    q.set_defaults(collective="ring")


def _task(q: argparse.ArgumentParser, widths: tuple[int, ...], numbers: bool = True) -> None:
    default = ",".join(map(str, widths))
    q.add_argument("--stages", "--stage", default="0,1,2,3", metavar="0,1,2,3", help="which stages (default: all)")
    q.add_argument("--layers", default=default, metavar="A,B,C", help=f"widths, inputs first (default: {default})")
    q.add_argument("--rows", type=int, default=64, metavar="R", help="rows per rank and step (default: 64)")
    _numbers(q, numbers)
    q.add_argument("--collective", default="auto", metavar="NAME", help="who moves the bytes (default: auto)")


def _numbers(q: argparse.ArgumentParser, numbers: bool = True) -> None:
    if numbers:
        q.add_argument("--precision", default="fp32", metavar="fp32|fp16|bf16", help="(default: fp32)")
    q.add_argument("--optimizer", default="adam", metavar="NAME", help="(default: adam)")


def _timing(q: argparse.ArgumentParser) -> None:
    q.add_argument("--seconds", type=float, default=8.0, metavar="S", help="about how long per stage (default: 8)")
    q.add_argument("--wire", default="shared", metavar="shared|tcp", help="shared memory (default), or TCP with MPICH")


def _output(q: argparse.ArgumentParser) -> None:
    text = "folder for the figure and the numbers (default: zerosim-out)"
    q.add_argument("--out", default="zerosim-out", metavar="DIR", help=text)
    q.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")
