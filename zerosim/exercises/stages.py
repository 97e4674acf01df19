"""Exercises on the stages: a reader's functions stand in for a stage's own, and are held to its bits and its books.

How they stand in: `unittest.mock.patch.multiple(zero2, backward=mine)` puts them into the stage's module for the length
of a `with` block. The stage's other functions call them then, and so does whatever runs that stage on in-process ranks.
A reader's function keeps its own globals, so that it may call others of the reader's; it must not call the one that it
stands in for.

A rank's weights must be stage 0's to the bit after every step. What it holds and sends must not be more than the
formulas say, nor may it send so little that it must hold what it should not; in which order it does things, and through
how small a buffer, is the reader's. What is in no book is looked for with the interpreter's tracer.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import FrameType, ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np

from zerosim import formulas
from zerosim.collectives import VERBS
from zerosim.config import Config
from zerosim.data import Dataset, convert, load
from zerosim.exercises.bits import After, same
from zerosim.exercises.numbers import answer, number
from zerosim.exercises.ranks import on_ranks
from zerosim.exercises.unbooked import ZEROSIM, traced
from zerosim.exercises.verdict import Wrong, exercise, wanted
from zerosim.ledger import StillReferenced
from zerosim.precision import precision
from zerosim.rank import Rank
from zerosim.stages import STAGES
from zerosim.transport import Transport

RANKS = (4, 1, 2, 3, 7)
"""Numbers of ranks that a stage is tried on: 3 and 7 show padding."""

STEPS, ROWS, BUCKET, BRIGHT = 2, 28, 600, 64.0
"""Steps, rows of a global batch, elements of a bucket where layers are cut, and the brightness of digits that make fp16
overflow."""

TRIALS: dict[str, tuple[dict[str, Any], float]] = {
    "fp16, adam": ({}, 1.0),
    "fp32, momentum, buckets": ({"precision": "fp32", "optimizer": "momentum", "bucket": BUCKET}, 1.0),
    "fp16, adam, a gradient overflows": ({}, BRIGHT),
    "fp32, sgd, 2 micro-steps, clipped": (
        {"precision": "fp32", "optimizer": "sgd", "grad_accum": 2, "clip_norm": 0.1},
        1.0,
    ),
}
"""Settings, and the brightness of the digits, by name."""

TRACED = ("fp16, adam", "fp32, sgd, 2 micro-steps, clipped")
"""In which arrays that no book shows are looked for: what a step does once, and what it does in each micro-step."""


@exercise
def check_stage_1(allocate: Callable[..., Any], step: Callable[..., Any], seconds: float = 20) -> str:
    """Check stage 1's `allocate(rank)` and `step(rank, batch)`; forward and backward are stage 0's.

    A trial that is not over after so many seconds is ended.
    """
    return _stage(1, {"allocate": allocate, "step": step}, seconds)


@exercise
def check_stage_2(
    allocate: Callable[..., Any], backward: Callable[..., Any], step: Callable[..., Any], seconds: float = 20
) -> str:
    """Check stage 2's `allocate(rank)`, `backward(rank, k, x, dy, add)` and `step(rank, batch)`."""
    return _stage(2, {"allocate": allocate, "backward": backward, "step": step}, seconds)


@exercise
def check_stage_3(gathered: Callable[..., Any], backward: Callable[..., Any], seconds: float = 20) -> str:
    """Check stage 3's `gathered(rank, k)`, a context manager, and `backward(rank, k, x, dy, add)`."""
    wanted(gathered, *_TAKES["gathered"])
    return _stage(3, {"gathered": _manager(gathered), "backward": backward}, seconds)


def _manager(gathered: Callable[..., Any]) -> Callable[..., Any]:
    """The same, if it is a context manager and yields a layer; Wrong is raised if not."""

    @contextmanager
    def checked(rank: Rank, k: int) -> Iterator[np.ndarray]:
        manager = gathered(rank, k)
        if not hasattr(manager, "__enter__"):
            needed = "it must be a context manager: @contextmanager above it, yield in it"
            raise Wrong(f"gathered returns {answer(manager)}; {needed}")
        with manager as weights:
            size = rank.layout.layer_size(k)
            if not isinstance(weights, np.ndarray) or weights.shape != (size,):
                what = f"an array of shape {weights.shape}" if isinstance(weights, np.ndarray) else answer(weights)
                raise Wrong(f"gathered yields {what}; layer {k} is a vector of {size} elements, padding included")
            yield weights
            del weights  # what was borrowed goes back now

    return checked


_TAKES = {
    "allocate": ("rank",),
    "backward": ("rank", "k", "x", "dy", "add"),
    "gathered": ("rank", "k"),
    "step": ("rank", "batch"),
}


def _stage(stage: int, functions: dict[str, Callable[..., Any]], seconds: float) -> str:
    for name, function in functions.items():
        wanted(function, *_TAKES[name])
    for N in RANKS:
        for name, (settings, brightness) in TRIALS.items():
            try:
                Trial(stage, N, _config(settings), brightness).check(functions, seconds)
            except Wrong as wrong:
                raise Wrong(f"N = {N} ({name}): {wrong}") from None
    for name in TRACED:
        try:
            with traced() as look:
                Trial(stage, 2, _config(TRIALS[name][0]), 1.0).run(functions, seconds, look)
        except Wrong as wrong:
            raise Wrong(f"bits and books are right, but on 2 ranks ({name}) {wrong}") from None
    return (
        f"on {', '.join(map(str, sorted(RANKS)))} ranks the bits of stage 0 after every step, with buckets, "
        f"micro-steps, clipping and an overflow too, and no byte held or sent above stage {stage}'s formulas"
    )


def _config(settings: dict[str, Any]) -> Config:
    return Config(hidden=(32, 32), batch_size=ROWS, **settings)


@dataclass(frozen=True)
class Trial:
    """A stage, on N ranks, with certain settings and on digits so many times as bright as they are."""

    stage: int
    N: int
    config: Config
    brightness: float

    def check(self, functions: dict[str, Callable[..., Any]], seconds: float) -> None:
        """Raise Wrong for the first thing that these functions do otherwise than the stage."""
        apart = self.config.grad_accum > 1 and self.stage > 1  # stages 2 and 3 add in another order than 0 and 1
        reference = self.stage if apart else 0
        right = _right(replace(self, stage=reference))
        mine = self.run(functions, seconds)
        for s in range(STEPS + 1):
            when = f"after step {s}" if s else "after allocate"
            try:
                now, before = ([own[at] for own in mine] for at in (s, max(0, s - 1)))
                for rank, own in enumerate(now):
                    self._holds(rank, own)
                same(now, [own[s] for own in right], before, f"stage {reference}", self.config)
                for rank, own in enumerate(now):
                    self._sends(rank, own)
            except Wrong as wrong:
                raise Wrong(f"{when}, {wrong}") from None

    # the reader's stage, and another one -----------------------------------------------------------------------------

    def run(
        self, functions: dict[str, Callable[..., Any]], seconds: float = 20, look: Callable[[str], None] | None = None
    ) -> list[list[After]]:
        """Take the steps with these functions, and return what each rank had after allocation and after each step.

        `look(when)` is called by rank 0 at each collective of the last step, and after it.
        """
        stage = STAGES[self.stage]
        digits, numerics = _digits(), precision(self.config.precision)
        rows = replace(digits, x=self.brightness * digits.x[: STEPS * ROWS], y=digits.y[: STEPS * ROWS])
        data = convert(rows, numerics.dtype, numerics.compute)
        try:
            with patch.multiple(stage, **functions):  # type: ignore[call-overload]
                return on_ranks(self.N, lambda comm: list(self._steps(comm, stage, data, look)), seconds)
        except StillReferenced as error:
            raise Wrong(_kept(error)) from None
        except RecursionError:
            name = stage.__name__.rpartition(".")[2]
            raise Wrong(
                f"one of yours calls itself without end. While it is checked it stands in for {name}'s own: what calls "
                f"{name}.{next(iter(functions))} then, say, calls yours"
            ) from None

    def _steps(
        self, comm: Transport, stage: ModuleType, data: Dataset, look: Callable[[str], None] | None
    ) -> Iterator[After]:
        rank = Rank(comm, self.config, data)
        look = look if comm.rank == 0 else None
        agreed = _watch(rank)
        stage.allocate(rank)
        yield self._after(rank, 0.0, False, {})
        for step, batch in enumerate(np.arange(STEPS * ROWS).reshape(STEPS, ROWS), 1):
            if look and step == STEPS:
                _look_at_collectives(rank, look)
            before = rank.comm.sent.copy()
            rank.ledger.reset_peak()
            agreed.clear()
            with np.errstate(all="ignore"):
                returned = stage.step(rank, batch)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise Wrong(f"step returns {answer(returned)}; it must return (loss, whether the weights were updated)")
            if len(agreed) != 1:
                often = f"{len(agreed)} times" if agreed else "never"
                raise Wrong(f"step calls rank.agree(loss) {often}; once is right: it counts the optimizer's steps")
            if look and step == STEPS:
                look("when the step is over")
            loss = number(returned[0], "the loss that step returns")
            yield self._after(rank, loss, returned[1], {verb: rank.comm.sent[verb] - before[verb] for verb in VERBS})

    def _after(self, rank: Rank, loss: float, updated: bool, sent: dict[str, int]) -> After:
        number, ledger = rank.comm.rank, rank.ledger
        for name in ("parameters", "gradients", "states"):
            if not hasattr(rank, name):
                raise Wrong(f"allocate has not set rank.{name} on rank {number}")
        arrays = {
            "parameters": [rank.parameters],
            "gradients": [rank.gradients],
            "optimizer_states": [*rank.states.values()],
        }
        for cls, held in arrays.items():
            if (nbytes := sum(array.nbytes for array in held)) != ledger.now[cls]:
                raise Wrong(
                    f"rank {number} has {nbytes:,} bytes of {_words(cls)}, and its book shows {ledger.now[cls]:,}: "
                    f"take them once, in allocate, with rank.zeros({cls!r}, elements)"
                )
        for name, value in vars(rank).items():
            if isinstance(value, np.ndarray) and name not in arrays:
                raise Wrong(f"rank {number} keeps {value.nbytes:,} bytes from step to step as rank.{name}")
        return After(
            rank.layout,
            rank.parameters.copy(),
            rank.gradients.copy(),
            {name: state.copy() for name, state in rank.states.items()},
            loss,
            bool(updated),
            sent,
            dict(ledger.now),
            dict(ledger.most),
        )

    # its books -------------------------------------------------------------------------------------------------------

    @property
    def _widths(self) -> list[int]:
        digits = _digits()
        return [digits.x.shape[1], *self.config.hidden, digits.outputs]

    def _holds(self, rank: int, own: After) -> None:
        """A rank must not hold more at rest than its share, nor gradients within a step, nor all of them as buffers."""
        config = self.config
        share = formulas.at_rest(self.stage, self._widths, self.N, config.precision, config.optimizer)
        for cls, nbytes in share.items():
            if own.now[cls] > nbytes:
                raise Wrong(
                    f"rank {rank} holds {own.now[cls]:,} bytes of {_words(cls)} at rest, {self._share(cls, nbytes)}"
                )
        if own.most["gradients"] > share["gradients"]:
            within = f"up to {own.most['gradients']:,} bytes of gradients within the step"
            raise Wrong(f"rank {rank} holds {within}, {self._share('gradients', share['gradients'])}")
        whole = formulas.at_rest(0, self._widths, self.N, config.precision, config.optimizer)["gradients"]
        if min(self.stage, self.N) > 1 and config.bucket and own.most["buffers"] >= whole:
            raise Wrong(
                f"rank {rank} holds up to {own.most['buffers']:,} bytes of buffers within the step, and a vector of "
                f"all parameters has {whole:,}: a layer at a time is enough, or a bucket of it"
            )

    def _share(self, cls: str, nbytes: int) -> str:
        if nbytes == 0:
            return "where there must be none: they live in a `with rank.ledger.borrow(...)` block"
        return f"stage {self.stage}'s share is {nbytes:,}"

    def _sends(self, rank: int, own: After) -> None:
        """A rank must send in a step what the formula says, all verbs together.

        At stage 3 it may leave out what an ideal one could: the first layer in backward, for nothing goes further back,
        and the last one, which is there from forward. Less than that it cannot send but by keeping what it gathers.
        """
        config, k = self.config, self.config.grad_accum
        enough = formulas.traffic(self.stage, self._widths, self.N, config.precision, config.bucket, k, rank=rank)
        sent, total = sum(own.sent.values()), sum(enough.values())
        spared = 0.0
        if self.stage == 3:
            sizes = [own.layout.layer_size(layer) for layer in (0, -1)]
            spared = enough["all_gather"] / 2 * sum(sizes) / own.layout.padded
        if sent <= total and not (own.updated and sent < total - spared - 1):
            return
        if sent < total:
            raise Wrong(
                f"the bits are right, but rank {rank} has sent only {sent:,} bytes in a step, and stage {self.stage} "
                f"needs {total:,}: so it must hold what belongs to others, or read it without a door"
            )
        once = total / sum(formulas.passes(self.stage, k).values())
        said = [
            f"{verb} {nbytes / once / (1 + (verb == 'all_reduce')):.3g}" for verb, nbytes in own.sent.items() if nbytes
        ]
        needed = [f"{verb} {times}" for verb, times in formulas.passes(self.stage, k).items()]
        hint = ". An all_reduce is a reduce_scatter and an all_gather" if own.sent["all_reduce"] else ""
        raise Wrong(
            f"the bits are right, but rank {rank} has sent {sent:,} bytes in a step, {sent / total:.3g} times the "
            f"{total:,} of stage {self.stage}. Passes over the parameters: {', '.join(said)}; needed: "
            f"{', '.join(needed)}{hint}"
        )


def _watch(rank: Rank) -> list[float]:
    """Let a rank write down each call of `agree`, and refuse `update` before it."""
    agreed: list[float] = []
    agree, update = rank.agree, rank.update

    def noted(loss: float, **more: Any) -> Any:
        agreed.append(loss)
        return agree(loss, **more)

    def after_that(parameters: slice, gradients: slice, states: slice, factor: float | None) -> None:
        if not agreed:
            raise Wrong("rank.update comes before rank.agree(loss), which says whether to update, and by which factor")
        if factor is None:
            raise Wrong(
                "rank.agree has given None for the factor: a gradient has overflowed, all ranks skip the update"
            )
        update(parameters, gradients, states, factor)

    vars(rank).update(agree=noted, update=after_that)
    return agreed


def _look_at_collectives(rank: Rank, look: Callable[[str], None]) -> None:
    def looking(verb: str) -> Callable[..., None]:
        call = getattr(rank.comm, verb)

        def looked(*vectors: Any, **where: Any) -> None:
            look(f"when rank.comm.{verb} is called")
            call(*vectors, **where)

        return looked

    vars(rank.comm).update({verb: looking(verb) for verb in VERBS})


def _kept(error: StillReferenced) -> str:
    """Say which name keeps an array that was released, if it is still on the stack."""
    names = [
        f"`{name}`"
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for name, value in frame.f_locals.items()
        if isinstance(value, np.ndarray) and _base(value) is error.array and not _of_zerosim(frame)
    ]
    held = f"the name {names[-1]}" if names else "something (a global, an attribute, a list)"
    return (
        f"{held} still refers to {error.array.nbytes:,} bytes that were borrowed, after their `with` block has ended. "
        "So they are there, and the book says that they are not: `del` the name, or borrow in a function of its own"
    )


def _of_zerosim(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(ZEROSIM)


def _base(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@cache
def _digits() -> Dataset:
    return load("digits")


@cache
def _right(trial: Trial) -> list[list[After]]:
    """What ranks have at one of zerosim's own stages."""
    return trial.run({"step": STAGES[trial.stage].step})


def _words(cls: str) -> str:
    return cls.replace("_", " ")
