"""The exam: each question has an answer, and each number of an answer is zerosim's own."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from test_exercises_faults import ALL, save, without

from zerosim import formulas, lecture
from zerosim.collectives import ring
from zerosim.exercises import check_commit_order, check_lost_steps
from zerosim.myths import Lab

FOLDER = Path(__file__).parent.parent / "notebooks"
SYLLABUS, FILE = ((FOLDER / name).read_text() for name in ("README.md", "answers.md"))
EXAM = SYLLABUS.partition("## Exam questions")[2]
QUESTIONS = {
    int(number): " ".join(text.split())
    for number, text in re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", EXAM, re.M | re.S)
}
ANSWERS = {
    int(number): (notebooks, int(points), text)
    for number, notebooks, points, text in re.findall(
        r"^## (\d+) \(notebooks? (.*?); (\d+) points\)$(.*?)(?=^## |\Z)", FILE, re.M | re.S
    )
}


def answer(number):
    """The words of an answer, without its Python."""
    return " ".join(ANSWERS[number][2].partition("```")[0].split())


def test_every_question_is_answered():
    assert list(QUESTIONS) == list(ANSWERS) == list(range(1, 15))
    assert f"together they are {sum(points for _, points, _ in ANSWERS.values())}" in FILE
    for notebooks, _, _ in ANSWERS.values():
        assert all(list(FOLDER.glob(f"{name}_*.ipynb")) for name in re.findall(r"\d\d", notebooks))


@pytest.mark.parametrize("number", ANSWERS)
def test_an_answer_s_python_prints_what_is_written_behind_it(number):
    (code,) = re.findall(r"```python\n(.*?)```", ANSWERS[number][2], re.S)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert ", ".join(printed.getvalue().splitlines()) == ", ".join(re.findall(r"print\(.*\)  # (.*)", code))


# each number, from zerosim and not from the file ---------------------------------------------------------------------


def said(number, *texts):
    """Whether an answer's words have all of these texts."""
    return [text for text in texts if text not in answer(number)] == []


def given(number, *texts):
    """Whether a question has all of these texts."""
    return [text for text in texts if text not in QUESTIONS[number]] == []


def test_model_states():
    for row, precision in (("fp32", "fp32"), ("mixed precision", "fp16")):
        (held,) = (
            run.at_rest[0] for run in Lab().train(1, precision=precision, optimizer="adam", stages=(0,), steps=1).runs
        )
        elements = held["parameters"] // formulas.WIDTH[precision]
        p, g, o = (held[name] // elements for name in ("parameters", "gradients", "optimizer_states"))
        master = 4 if precision == "fp16" else 0
        moment = (o - master) // 2
        assert said(1, f"| {row} | {p} | {g} | {master or '-'} | {moment} | {moment} | {p + g + o} |")


def test_bytes_at_rest():
    L = [64, 21, 13, 10]
    assert given(2, "{:,}, {} and {}".format(*formulas.layer_sizes(L)), "N = 4", "stage 2")
    held = Lab(4).train(stages=(2,), hidden=(21, 13), precision="fp16", steps=1).runs[0].at_rest[0]
    parameters, rest = held["parameters"], held["gradients"] + held["optimizer_states"]
    assert held == formulas.at_rest(2, L, 4, "fp16", "adam")
    assert said(
        2, f"{formulas.padded_parameters(L, 4):,} in all", f"{parameters:,} + {rest:,} = {parameters + rest:,} bytes"
    )
    together = formulas.parameters(L)
    for padded in (together + 1, together):
        assert said(2, f"{formulas.states_per_rank(2, padded, 4):,g}".replace(".0", ""))


def test_ring():
    assert given(3, "5 ranks", "rank 2", "exchange 3")
    sent = [int(exchange.send) for exchange in ring.all_gather(2, 5)]
    assert said(3, f"slice {sent[3]}", f"sends {', '.join(map(str, sent))}")


def test_messages_and_bytes():
    assert given(4, "64 ranks")
    ring, doubling = (formulas.coefficients("all_reduce", name, 64) for name in ("ring", "doubling"))
    assert said(4, f"= {ring[0]} |", f"= {float(ring[1])} n |", f"= {doubling[0]} |", f"= {doubling[1]} n |")
    more, fewer = ring[0] - doubling[0], doubling[1] - ring[1]
    assert said(4, f"{more} alpha / ({float(fewer)} beta) = {float(more / fewer):.1f} alpha / beta")
    n = float(more / fewer)
    times = [formulas.collective_seconds("all_reduce", name, 64, n, alpha=1, beta=1) for name in ("ring", "doubling")]
    assert times[0] == pytest.approx(times[1])


def test_all_reduce_at_stage_1():
    wasteful, right = (formulas.volume_in_all(1, 1, stage1=verb) for verb in ("all_reduce", "reduce_scatter"))
    assert said(5, f"{wasteful:g} Psi instead of {right:g} Psi, {wasteful / right:g} times")


def test_peaks():
    for words, hidden in (("one hidden layer of 512", (512,)), ("sixteen of 64", (64,) * 16)):
        two, three = Lab(4).train(stages=(2, 3), hidden=hidden, precision="fp32", steps=1).runs
        ratio = max(p["total"] for p in three.peak) / max(p["total"] for p in two.peak)
        assert re.search(rf"{words}, {ratio:.2f} times", answer(6))


def test_micro_steps():
    runs = {k: Lab(4).train(stages=(1, 2, 3), hidden=(8,), grad_accum=k, steps=1).runs for k in (1, 2, 4)}
    sent = {k: [sum(run.sent_per_step["data"][0].values()) for run in own] for k, own in runs.items()}
    assert given(7, "k = 4")
    assert said(7, "5 Psi against 2 Psi", f"{sent[4][1] / sent[4][0]:g} times")
    assert sent[4][1] / sent[4][0] == 5 / 2
    factors = {k: own[2] / own[1] for k, own in sent.items()}
    assert given(13, "k = 2 and for k = 4")
    assert said(13, f"is {factors[1]:g} for k = 1 only", f"k = 2 it is {factors[2]:g}", f"k = 4 it is {factors[4]:g}")


def test_conventions():
    S, N = 1e9, 8
    one, all_ = (float(formulas.lower_bound(verb, N)[1]) * S / 1e9 for verb in ("reduce_scatter", "all_reduce"))
    assert given(8, f"{N} ranks", f"{N * all_:g} GB", f"{one} GB", f"factor {N * all_ / one:g}")
    assert said(8, f"{one} GB, so it has {S / 1e9:g} GB", f"{all_} GB", f"factor of {all_ / one:g}; the other {N} is N")


def test_checkpoints():
    n, L = 64, [64] * 65
    divisors = [K for K in range(1, n + 1) if n % K == 0]
    held = {K: formulas.activations_peak(L, [1], 4, how=formulas.Kept(K))["device"] // 256 for K in divisors}
    assert all(held[K] == n // K + K for K in held)
    assert sum(held[K] == min(held.values()) for K in held) == 1, "one right answer"
    best = min(held, key=held.get)
    assert given(10, "n = 64")
    assert said(10, f"K = {best}, the root", f"{n // best} + {best} = {held[best]} vectors", f"of the {held[1]} of all")
    assert said(10, f"1 + n = {held[n]}")


def test_devices():
    assert given(11, "13 billion", "32 GB")
    fits = next(N for N in range(1, 100) if formulas.states_per_rank(2, 13e9, N) <= 32e9)
    assert said(11, f"{2 * 13} + {14 * 13} / N GB", f"so {fits} devices", f"{4 * 13} GB are left")
    assert formulas.states_per_rank(1, 13e9, 1e12) == pytest.approx(52e9)
    assert formulas.largest_model(2, 32e9, fits - 1) < 13e9 <= formulas.largest_model(2, 32e9, fits)
    assert given(12, "trillion", "200 devices of 80 GB")
    assert formulas.states_per_rank(3, 1e12, 200) == 80e9
    assert said(12, f"{formulas.states_per_rank(0, 1e12) / 1e9:,.0f} GB", "a 200th of that is 80 GB")


def test_lost_steps():
    def lost(done, every, writing):
        return done % every or (every if writing and done else 0)

    assert check_lost_steps(lost)
    assert given(14, "every 7th step")
    worst = max(lost(done, 7, writing) for done in range(100) for writing in (True, False))
    assert answer(14).startswith(f"{worst}: killed")


def test_order_of_writes():
    """The order that the answer gives is the exercise's, and so is what may be left out."""
    places = [
        answer(14).index(words)
        for words in (
            "sync each new file",
            "sync the new folder",
            "rename the new folder",
            "sync the folder above;",
            "rename the old checkpoint's folder",
            "sync the folder above once more",
            "remove the old files",
        )
    ]
    assert places == sorted(places)
    assert list(ALL[1:]) == ["sync files", "sync aside", "rename", "sync", "old", "sync old", "remove"]
    assert check_commit_order(save)
    needed = [step for step in ALL if not check_commit_order(without(step))]
    assert needed == [step for step in ALL if step != "sync"]


def test_the_syllabus_has_a_place_for_every_figure():
    sessions = SYLLABUS.partition("figures for lectures")[2].partition("**In a notebook**")[0]
    assert sorted(re.findall(r"`([\w-]+)`", sessions)) == sorted(lecture.SLIDES)
