"""Figures for lectures: each is one slide with what to say of it, drawn from what is counted here and from formulas.

Nothing is measured in seconds, so a figure is the same whenever and wherever it is made. What is counted comes from
short trainings on in-process ranks; the rest are the formulas, and times on a modelled cluster.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosim import (
    anchor,
    cluster,
    collectives,
    figures,
    formulas,
    machine,
    models,
    overlap,
    plan,
    published,
    timing,
    words,
)
from zerosim.collectives.check import trace
from zerosim.config import Config
from zerosim.jsonfile import read_json, write_json
from zerosim.report import build_report, si, text_seconds
from zerosim.train import train
from zerosim.transport.threads import run_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "zerosim.figure/1"
DPI = 200
COMMAND = "python -m zerosim figures"

RANKS = 4
"""Of what is counted, and of the ring."""
MANY = 64
"""Of the modelled cluster on which algorithms are compared."""
MICRO_STEPS = (1, 2, 4, 8)
KINDS = (("fp32", "sgd"), ("fp32", "adam"), ("fp16", "sgd"), ("fp16", "momentum"), ("fp16", "adam"))
MODELS = ("gpt2-xl", "llama-2-7b", "llama-2-70b", "gpt3-175b", "mt-nlg-530b")
DEVICE = "dgx-a100"
A100, V100 = machine.find(DEVICE).memory, machine.find("dgx-2").memory

Tell = Callable[[str], None]


class Data:
    """What the figures show, gathered when it is first asked for; `tell` hears how far it is."""

    def __init__(self, tell: Tell = lambda text: None) -> None:
        self._tell = tell

    @cached_property
    def report(self) -> dict[str, Any]:
        """Of a training of a few steps at every stage, with the standard settings; more would not change the books."""
        self._tell(f"counting a step on {RANKS} ranks")
        config = Config(steps=2)
        return build_report(run_threads(RANKS, lambda comm: train(config, comm))[0])

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """By number of ranks and stage."""
        return anchor.count(tell=self._tell)

    @cached_property
    def micro_steps(self) -> list[dict[str, Any]]:
        """By number of micro-steps and stage."""
        points = []
        for k in MICRO_STEPS:
            self._tell(f"counting steps of {k} micro-steps")
            points += anchor.count(ranks=(RANKS,), grad_accum=k)
        return points

    @cached_property
    def kinds(self) -> list[dict[str, Any]]:
        """By precision and optimizer, at stage 0 on one rank."""
        return [anchor.count(ranks=(1,), precision=p, optimizer=o, tell=self._tell)[0] for p, o in KINDS]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The published numbers that come with zerosim."""
        return published.shipped()

    @cached_property
    def crossovers(self) -> dict[str, Any]:
        """All-reduces of `MANY` ranks compared."""
        where = cluster.find(DEVICE)
        names = ("ring", "halving", "doubling", "binomial", f"hierarchical:{where.ranks_per_node}")
        return timing.compare([collectives.find(name) for name in names], "all_reduce", MANY, where, 1e8, self._tell)

    def ring(self, verb: str) -> Any:
        """The ring's exchanges on a few ranks."""
        return trace(collectives.find("ring").generator(verb), verb, RANKS)

    @cached_property
    def machine(self) -> machine.Machine:
        """A100s, each alone on a network that is slow beside them: there is something to hide."""
        return dataclasses.replace(machine.find(DEVICE), network=cluster.find("ethernet-100"))

    @cached_property
    def work(self) -> plan.Workload:
        """What a step of the schedule does."""
        return plan.Workload(gpus=16, micro_batch=8192, precision="bf16")

    @cached_property
    def subject(self) -> plan.Subject:
        """An MLP of eight equal layers."""
        return plan.mlp((8192,) * 9)

    @cached_property
    def steps(self) -> dict[int, list[overlap.Span]]:
        """By stage, a step on two streams."""
        return {stage: overlap.schedule(self.subject, self.machine, self.work, stage) for stage in range(4)}


@dataclasses.dataclass(frozen=True)
class Slide:
    """A figure for a lecture."""

    name: str
    """Of its files."""
    title: str
    draw: Callable[[Data], "Figure"]
    caption: Callable[[Data], str]
    """What one sees, and the lesson; each number in it comes from the data."""
    setting: Callable[[Data], dict[str, Any]]
    """What was counted or computed."""
    animate: Callable[[Data, Path], None] | None = None
    """Writes an animated GIF to a path; its last picture is the figure."""

    @property
    def files(self) -> list[str]:
        """The names of its files, the caption's last."""
        endings = (["gif"] if self.animate else []) + ["png", "svg", "json"]
        return [f"{self.name}.{ending}" for ending in endings]


# settings ------------------------------------------------------------------------------------------------------------


def _run(data: Data) -> dict[str, Any]:
    report = data.report
    config = report["config"]
    keys = ("precision", "optimizer", "batch_size", "collective", "seed")
    return {
        "counted": True,
        "ranks": report["world_size"],
        "model": _mlp(report["model"]["layers"]),
        "data": report["data"]["name"],
        **{key: config[key] for key in keys},
    }


def _points(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Of points counted: what is the same in all of them as it is, what is not as a list."""
    keys = ("ranks", "precision", "optimizer", "grad_accum")
    found: dict[str, Any] = {key: list(dict.fromkeys(point[key] for point in points)) for key in keys}
    alike = {key: values[0] if len(values) == 1 else values for key, values in found.items()}
    return {"counted": True, "model": _mlp(anchor.WIDTHS), **alike, "collective": "ring", "seed": 0}


def _mlp(widths: Iterable[int]) -> str:
    sizes = list(widths)
    return f"MLP {'-'.join(map(str, sizes))}, {formulas.parameters(sizes):,} parameters"


def _formula(*names: str, **inputs: Any) -> dict[str, Any]:
    return {"counted": False, "formulas": [f"zerosim.formulas.{name}" for name in names], **inputs}


def _ring(data: Data) -> dict[str, Any]:
    return {"counted": True, "ranks": RANKS, "collective": "ring", "slices_sent_per_rank": _slices(data, "all_reduce")}


def _slices(data: Data, verb: str) -> int:
    return max(data.ring(verb).slices_sent())


def _on_streams(data: Data) -> dict[str, Any]:
    work, network = data.work, data.machine.network
    return {
        "counted": False,
        "formulas": ["zerosim.overlap.schedule"],
        "ranks": work.ranks,
        "model": _mlp(data.subject.widths),
        "rows_per_rank": work.micro_batch,
        "precision": work.precision,
        "optimizer": work.optimizer,
        "device": f"{DEVICE}: {data.machine.flops / 1e12:g} TFLOPS, of which {work.efficiency:.0%} are reached",
        "network": f"{network.name}: {network.bandwidth_between / 1e9:g} GB/s, {text_seconds(network.alpha_between)}",
    }


def _held(data: Data, stage: int) -> str:
    """At rest on the fullest rank."""
    return si(max(sum(held.values()) for held in data.report["runs"][stage]["memory"]["at_rest"]["measured"]))


def _sent(data: Data, stage: int) -> int:
    return max(sum(own.values()) for own in data.report["runs"][stage]["traffic"]["per_step"]["measured"])


def _peak(data: Data, stage: int) -> str:
    return si(max(own["total"] for own in data.report["runs"][stage]["memory"]["peak"]["measured"]))


def _crossings(data: Data) -> str:
    found = data.crossovers
    steps = [f"{found['fastest'][0]} is the fastest for short vectors"]
    return ", ".join(steps + [f"{one['to']} from {si(one['bytes'])} on" for one in found["crossovers"]])


def _exposed(data: Data) -> str:
    parts = {stage: overlap.summary(spans) for stage, spans in data.steps.items()}
    return "; ".join(f"stage {stage}: {text_seconds(one['exposed'])}" for stage, one in parts.items())


# the slides, in the order of a lecture -------------------------------------------------------------------------------

_STATES = 7.5e9
_BYTES = {"bytes_per_parameter": "w 2, g 2, K 12"}
_SLIDES = (
    Slide(
        "memory",
        "Memory by stage, formula and measured",
        lambda data: figures.memory(data.report),
        lambda data: (
            "Bytes of each class on the fullest rank, at rest (wide bars) and at the peak of a step (narrow). The "
            f"black marks are the formula's. At rest: {_held(data, 0)} at stage 0, {_held(data, 1)}, {_held(data, 2)} "
            f"and {_held(data, 3)} at stage 3. Lesson: at rest each stage shares out one class more; the peak of a "
            f"model this small is mostly buffers, and is {_peak(data, 2)} at stage 2 and {_peak(data, 3)} at stage 3."
        ),
        _run,
    ),
    Slide(
        "memory-by-ranks",
        "Memory against N",
        lambda data: figures.states(data.points, data.rows),
        lambda data: (
            "Bytes at rest per parameter on each rank, by the number of ranks, both axes logarithmic. Curves are "
            "formulas, circles were counted, diamonds are printed in ZeRO's table 1. Lesson: stages 1 and 2 approach "
            f"{formulas.states_per_rank(1, 1, 1e12):.3g} and {formulas.states_per_rank(2, 1, 1e12):.3g} bytes, which "
            "no number of ranks makes less; stage 3 goes on as 1/N."
        ),
        lambda data: _points(data.points),
    ),
    Slide(
        "traffic",
        "Traffic by stage and verb",
        lambda data: figures.traffic(data.report),
        lambda data: (
            "Bytes that each rank sends in one step, by verb; black marks are the formula's, dashed lines the paper's "
            f"volumes for large N. Lesson: stages 0, 1 and 2 send the same, {si(_sent(data, 0))}, in different verbs; "
            f"stage 3 sends {_sent(data, 3) / _sent(data, 0):g} times as much, for it gathers the parameters twice."
        ),
        _run,
    ),
    Slide(
        "traffic-by-ranks",
        "Traffic against N",
        lambda data: figures.volume(data.points),
        lambda data: (
            "Elements that each rank sends in one step, per parameter, by the number of ranks. Curves are formulas, "
            "circles were counted. Lesson: the paper's 2 Psi and 3 Psi are limits; on N ranks it is (N - 1)/N of them, "
            f"so on {RANKS} ranks {1 - 1 / RANKS:.0%}. More ranks do not mean more traffic per rank."
        ),
        lambda data: _points(data.points),
    ),
    Slide(
        "timeline-by-stage",
        "Memory in one step, by stage",
        lambda data: figures.timeline(data.report, by_changes=True),
        lambda data: (
            "What rank 0 holds during one step, class by class, from one take or release of memory to the next. Bars "
            "above are phases; one in which nothing is taken or released has no width. The dashed line is the formula "
            "at rest. Lesson: model states lie still, buffers come and go; stage 3 adds buffers where it gathers a "
            "layer, forward and backward."
        ),
        _run,
    ),
    Slide(
        "ownership",
        "Who owns what",
        lambda data: figures.ownership(data.report),
        lambda data: (
            "Each row is a rank, each field a class, as wide as it has bytes; filled is what the rank holds at rest, "
            "as counted. Lesson: a stage up, one class more is held once among all ranks instead of once on each. "
            f"On {RANKS} ranks a slice is 1/{RANKS}."
        ),
        _run,
    ),
    Slide(
        "ring",
        "The ring, exchange by exchange",
        lambda data: figures.exchanges(data.ring("all_reduce"), "ring"),
        lambda data: (
            "Rows are ranks, columns slices; a number says how many ranks are added in a slice, a frame that it is "
            f"sent next. Lesson: after {RANKS - 1} exchanges each rank has one complete slice, after {RANKS - 1} more "
            f"all have all; each rank has sent {_slices(data, 'all_reduce')} slices of 1/{RANKS}."
        ),
        _ring,
        lambda data, path: figures.travel(data.ring("all_reduce"), "ring", path),
    ),
    Slide(
        "all-reduce-in-halves",
        "An all-reduce is a reduce-scatter and an all-gather",
        lambda data: figures.halves(data.ring("reduce_scatter"), data.ring("all_gather"), "ring"),
        lambda data: (
            "What each rank holds of each slice before, between and after the halves. Lesson: each half sends "
            f"{_slices(data, 'all_gather')}/{RANKS} of the vector from each rank, so that stages 1 and 2, which update "
            "between the halves, send no more than plain data parallelism."
        ),
        _ring,
    ),
    Slide(
        "crossovers",
        "Which algorithm is the fastest",
        lambda data: figures.crossover(data.crossovers),
        lambda data: (
            "Time of one all-reduce by size on a modelled cluster, both axes logarithmic: alpha per message, beta per "
            "byte; each algorithm has its colour, dash and mark, and the fastest is named on top. Lesson: few "
            "messages win where vectors are short, few bytes where they are long: "
            f"{_crossings(data)}."
        ),
        lambda data: {
            "counted": False,
            "formulas": ["zerosim.timing.compare"],
            "ranks": data.crossovers["ranks"],
            "verb": data.crossovers["verb"],
            "cluster": data.crossovers["cluster"],
        },
    ),
    Slide(
        "figure1",
        "ZeRO's figure 1: model states by stage",
        lambda data: figures.figure1(data.rows),
        lambda data: (
            f"Model states per device, {_STATES / 1e9:g} billion parameters on 64 devices, as ZeRO's figure 1 has "
            f"them: bars are the formula, marks are printed. Lesson: {si(formulas.states_per_rank(0, _STATES, 64))} "
            f"become {si(formulas.states_per_rank(3, _STATES, 64))}; the first step, optimizer states, saves the most."
        ),
        lambda data: _formula("model_states", **_BYTES, parameters=f"{_STATES:,.0f}", ranks=64),
    ),
    Slide(
        "table1",
        "ZeRO's table 1: what fits a device",
        lambda data: figures.table1(data.rows, V100),
        lambda data: (
            f"Gigabytes of model states per device; green fits in {V100 / 1e9:g} GB. Bold is the formula, below it "
            "what is printed; the paper rounds in one column and truncates in others. Lesson: with enough ranks stage "
            f"3 fits a trillion parameters, {si(formulas.states_per_rank(3, 1e12, 1024))} on each of 1024; stages 1 "
            "and 2 do not."
        ),
        lambda data: _formula("states_per_rank", **_BYTES, memory=f"{si(V100)} per device"),
    ),
    Slide(
        "table2",
        "ZeRO's table 2: the largest model",
        lambda data: figures.largest(data.rows),
        lambda data: (
            f"The largest model by number of devices of {V100 / 1e9:g} GB, 64 data-parallel ranks times model "
            "parallelism. Diamonds are the table's bounds, crosses what was trained. Lesson: model parallelism "
            "multiplies what a stage has room for; measured sizes stay below the bound, which leaves out activations."
        ),
        lambda data: _formula("largest_model", **_BYTES, ranks=64, memory=f"{si(V100)} per device"),
    ),
    Slide(
        "accumulation",
        "What accumulation costs",
        lambda data: figures.accumulation(data.micro_steps),
        lambda data: (
            "Bytes that each rank sends in one step, in units of the parameters' bytes, by the number of micro-steps. "
            "Marks were counted, lines are formulas. Lesson: stages 0 and 1 reduce once, whatever k is; stage 2 "
            "reduces in each micro-step, stage 3 gathers in each, too. With many micro-steps stage 1 is the cheap one."
        ),
        lambda data: _points(data.micro_steps),
    ),
    Slide(
        "mixed-precision",
        "Bytes per parameter in mixed precision",
        lambda data: figures.precision(data.kinds),
        lambda data: (
            "Bytes per parameter at rest, by precision and optimizer, as counted at stage 0; black marks are the "
            f"formula's. Lesson: K = {formulas.K('adam', 'fp16')} is the fp32 master copy and two moments. Mixed "
            "precision does not make the model states smaller: it makes activations and messages smaller, and products "
            "faster."
        ),
        lambda data: _points(data.kinds),
    ),
    Slide(
        "largest-model",
        "The largest model that fits",
        lambda data: figures.room([(name, models.PRESETS[name].parameters) for name in MODELS], A100, DEVICE),
        lambda data: (
            f"Parameters whose model states fill {A100 / 1e9:g} GB on each device, by the number "
            "of ranks; dashed lines are models that there are. Lesson: stages 1 and 2 end at "
            f"{formulas.largest_model(1, A100, 1e12) / 1e9:.3g} and "
            f"{formulas.largest_model(2, A100, 1e12) / 1e9:.3g} billion parameters, however many "
            "ranks there are."
        ),
        lambda data: _formula("largest_model", **_BYTES, memory=f"{si(A100)} per device"),
    ),
    Slide(
        "overlap",
        "A step on two streams: what overlaps, what is exposed",
        lambda data: figures.schedule(data.steps, _subject(data)),
        lambda data: (
            "Computing and sending in one step of each stage on a modelled cluster; a span is a layer. Exposed is the "
            f"time in which nothing is computed: {_exposed(data)}. Lesson: the first gather and the last reduction can "
            "never be hidden; what is sent behind a pass is hidden as far as the pass lasts."
        ),
        _on_streams,
    ),
)
SLIDES = {slide.name: slide for slide in _SLIDES}


def _subject(data: Data) -> str:
    network = data.machine.network
    return (
        f"{formulas.parameters(data.subject.widths):,} parameters in {len(data.subject.units)} layers, "
        f"{data.work.ranks} A100, one on a node, {network.bandwidth_between / 1e9:g} GB/s between them"
    )


# what is written -----------------------------------------------------------------------------------------------------


def picked(names: list[str]) -> list[Slide]:
    """Return the slides of these names, in a lecture's order, or all. Raises InputError for a name that is none."""
    chosen = {slide.name for slide in words.picked("figures", "figure", names, SLIDES)}
    return [slide for slide in _SLIDES if slide.name in chosen]


def make(slide: Slide, data: Data, folder: Path) -> None:
    """Draw a slide, and write its files into an existing folder: the pictures and NAME.json, which has the caption."""
    figures.save(slide.draw(data), folder, slide.name, DPI)
    if slide.animate:
        slide.animate(data, folder / f"{slide.name}.gif")
    said = {
        "schema": SCHEMA,
        "name": slide.name,
        "title": slide.title,
        "caption": slide.caption(data),
        "command": f"{COMMAND} {slide.name}",
        "setting": slide.setting(data),
        "files": slide.files[:-1],
    }
    write_json(said, folder / f"{slide.name}.json")


def write_list(folder: Path) -> Path:
    """Write README.md into the folder: of every slide that is there its thumbnail, caption, command and setting."""
    parts = [
        "# Figures for lectures\n",
        f"Made by `{COMMAND}`, which writes this file too; `{COMMAND} NAME` makes one of them. Each is a slide of 16:9 "
        f"as PNG ({DPI} dots per inch) and SVG, and NAME.json has its caption, its command and its setting. A class of "
        "memory, a verb, a phase has one colour and one hatching in all of them, an algorithm one colour, dash and "
        "mark; most colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart. Nothing is "
        "measured in seconds: made again, a figure is the same.\n",
    ]
    for slide in _SLIDES:
        if (folder / f"{slide.name}.json").is_file():
            parts.append(_entry(read_json(str(folder / f"{slide.name}.json"), f"figures {slide.name}")))
    path = folder / "README.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _entry(said: dict[str, Any]) -> str:
    pictures = {name.rpartition(".")[2]: name for name in said["files"]}
    links = ", ".join(f"[{ending.upper()}]({name})" for ending, name in pictures.items())
    shown = f'<a href="{pictures["png"]}"><img src="{pictures["png"]}" width="420" alt="{said["title"]}"></a>'
    if "gif" in pictures:
        shown += (
            f'\n<a href="{pictures["gif"]}"><img src="{pictures["gif"]}" width="420" alt="{said["title"]}, moving"></a>'
        )
    setting = "; ".join(f"{key.replace('_', ' ')}: {_words(value)}" for key, value in said["setting"].items())
    return f"## {said['title']}\n\n{shown}\n\n{said['caption']}\n\n`{said['command']}`: {links}. Setting: {setting}.\n"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return str(value["name"])
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"
