"""The promises for whatever can be asked for: any ranks, widths, buckets, slices, settings; drawn by hypothesis.

Examples are the same in every run. One that fails is shown with its settings, the smallest that were found.
"""

import hashlib
import tempfile

import numpy as np
from conftest import train_on
from contract import check
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

import zerosim
from zerosim.checkpoint import open_checkpoint, restore, resumed
from zerosim.collectives import ALGORITHMS
from zerosim.comm import chosen
from zerosim.data import convert
from zerosim.errors import InputError
from zerosim.optim import RULES
from zerosim.rank import Rank
from zerosim.stages import STAGES
from zerosim.transport import connect

FIXED = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "print_blob": False,
    "phases": [Phase.explicit, Phase.generate, Phase.shrink],
    "report_multiple_bugs": False,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
}


def _for(N):
    """The names of the collectives that are for N ranks."""
    names = [*ALGORITHMS, "auto", *(f"hierarchical:{m}" for m in range(1, N + 1) if N % m == 0)]
    found = []
    for name in names:
        try:
            chosen(name, N)
        except InputError:
            continue
        found.append(name)
    return found


COLLECTIVES = {N: _for(N) for N in range(1, 9)}


DATASETS = st.tuples(
    st.integers(1, 6), st.integers(1, 4), st.booleans(), st.integers(0, 99), st.sampled_from([1.0, 1.0, 30.0])
)


def dataset(features, outputs, regression, seed, scale):
    """Sixty rows, with classes or with numbers to learn."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((60, features)) * scale
    regression = regression or outputs == 1
    return zerosim.make_dataset(
        "drawn", x, random.standard_normal((60, outputs)) if regression else np.arange(60) % outputs
    )


BUCKETS = st.sampled_from([0, 0, 1, 2, 7, 20, 64, 10**9])


def shares(D):
    """Slices of D ranks, as a rule unequal, or none."""
    return st.none() | st.lists(st.integers(1, 4), min_size=D, max_size=D)


@st.composite
def trainings(draw, precisions=("fp32", "fp16", "bf16"), grids=False):
    """Ranks, and settings that they can train with: (N, settings)."""
    N, G = draw(st.integers(1, 8)), draw(st.sampled_from([1, 1, 2, 3]))
    hidden = draw(st.lists(st.integers(1, 9), max_size=3))
    T, P = draw(st.sampled_from(_grids(N, len(hidden) + 1))) if grids else (1, 1)
    D = N // (T * P)
    chosen_by = {
        "hidden": hidden,
        "optimizer": draw(st.sampled_from([*RULES])),
        "lr": draw(st.sampled_from([0.001, 0.02])),
        "weight_decay": draw(st.sampled_from([None, 0.0, 0.1])),
        "precision": draw(st.sampled_from(precisions)),
        "grad_accum": G,
        "batch_size": draw(st.integers(D * G, min(D * G + 9, 40))),
        "clip_norm": draw(st.sampled_from([None, 0.02, 5.0])),
        "bucket": draw(BUCKETS),
        "slices": draw(shares(D)),
        "collective": draw(st.sampled_from(COLLECTIVES[D] if T == 1 else ["ring", "pairwise"])),
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
        "tensor_parallel": T,
        "pipeline": P,
    }
    return N, chosen_by


def _grids(N, layers):
    """Tensor-parallel and pipeline ranks that N ranks and so many layers allow, none of both the most often."""
    found = [(T, P) for T in (1, 2, 3) for P in (1, 2, 3) if N % (T * P) == 0 and layers >= P]
    return [(1, 1)] * len(found) + found


def train(N, data, chosen_by, **others):
    """Train, or give up the example if it diverges or has a layer too narrow for its tensor-parallel ranks."""
    assume(wide_enough(data, chosen_by["hidden"], chosen_by["tensor_parallel"]))
    try:
        return train_on(N, data, **{"steps": 3, **chosen_by, **others})
    except zerosim.Diverged:
        assume(False)


def wide_enough(data, hidden, T):
    return all(width >= T for width in [data.x.shape[1], *hidden, data.outputs][1::2])


def assert_books(records):
    """What is measured is what the formulas say; and what first principles say, where all ranks hold and send alike."""
    report = zerosim.build_report(records)
    if len(set(records.config.slices or ())) <= 1 and records.config.collective in ("ring", "halving", "pairwise"):
        assert list(check(report)) == []
    for run in report["runs"]:
        traffic = run["traffic"]
        assert run["memory"]["at_rest"]["measured"] == run["memory"]["at_rest"]["formula_per_rank"]
        assert traffic["per_step"]["measured"] == traffic["per_step"]["formula_per_rank"]
        for group in traffic["model_parallel"].values():
            assert group["measured"] == group["formula_per_rank"]
        assert traffic["messages"] == traffic["messages_formula"]
        assert sum(traffic["sent"]) == sum(traffic["received"])
        for rest in run["memory"]["at_rest"]["measured"]:
            assert rest["activations"] == rest["buffers"] == 0


@given(DATASETS, trainings())
@settings(max_examples=40, **FIXED)
def test_same_bits_and_same_books(drawn, training):
    """Stages that add in the same order end with the same weights and losses, and the books are the formulas'."""
    (N, chosen_by), data = training, dataset(*drawn)
    records = train(N, data, chosen_by)
    together = [records.runs] if chosen_by["grad_accum"] == 1 else [records.runs[:2], records.runs[2:]]
    for runs in together:
        assert len({run.weights_sha256 for run in runs}) == 1
        assert all((run.loss, run.skipped_steps) == (runs[0].loss, runs[0].skipped_steps) for run in runs)
    assert_books(records)


SKIPPED = {
    **{"hidden": [4], "optimizer": "adam", "precision": "fp16", "batch_size": 16, "slices": [2, 1], "bucket": 7},
    **{"grad_accum": 1, "tensor_parallel": 1, "pipeline": 1},
}


@given(
    DATASETS,
    trainings(("fp32", "fp16", "bf16", "fp64"), grids=True),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 4),
)
@example((5, 3, False, 1, 30.0), (2, SKIPPED), 2, 3, 5, 3)  # four of the first steps overflow and are skipped
@settings(max_examples=25, **FIXED)
def test_a_training_that_goes_on_is_the_uninterrupted_one(drawn, training, stage, then, first, steps):
    """k steps, and from their checkpoint the rest, at any stage that adds in the same order: the same bits."""
    (N, chosen_by), data = training, dataset(*drawn)
    if chosen_by["grad_accum"] > 1:
        then = stage // 2 * 2 + then % 2
    with tempfile.TemporaryDirectory() as folder:
        whole = train(N, data, chosen_by, stages=(stage,), steps=first + steps).runs[0]
        train(N, data, chosen_by, stages=(stage,), steps=first, checkpoint=folder)
        config = resumed(folder, N, stages=(then,), steps=first + steps, checkpoint=None)
        everyone = zerosim.run_threads(N, lambda comm: zerosim.train(config, comm, data=data))
    rest = everyone[0].runs[0]
    assert rest.weights_sha256 == whole.weights_sha256
    assert (rest.loss, rest.skipped_steps, rest.final_loss_scale) == (
        whole.loss,
        whole.skipped_steps,
        whole.final_loss_scale,
    )
    assert rest.epochs == whole.epochs


@given(DATASETS, trainings(("fp32", "fp16", "bf16", "fp64"), grids=True), st.integers(0, 3), st.data())
@settings(max_examples=40, **FIXED)
def test_states_are_the_same_on_other_ranks(drawn, training, stage, draw):
    """A checkpoint of N ranks, taken up by M others at another stage, grid and bucket: the same states to the bit."""
    (N, chosen_by), data = training, dataset(*drawn)
    M = draw.draw(st.integers(1, 8))
    T, P = draw.draw(st.sampled_from(_grids(M, len(chosen_by["hidden"]) + 1)))
    slices, bucket = draw.draw(shares(M // (T * P))), draw.draw(BUCKETS)
    changes = {"tensor_parallel": T, "pipeline": P, "slices": slices, "bucket": bucket}
    assume(wide_enough(data, chosen_by["hidden"], T))
    with tempfile.TemporaryDirectory() as folder:
        run = train(N, data, chosen_by, stages=(stage,), checkpoint=folder).runs[0]
        there = taken_up(folder, N, data, stages=(stage,))
        here = taken_up(folder, M, data, stages=(draw.draw(st.integers(0, 3)),), **changes)
    assert hashlib.sha256(there["parameters"].tobytes()).hexdigest() == run.weights_sha256
    assert there.keys() == here.keys() == {"parameters", *RULES[chosen_by["optimizer"]][1]}
    for name, values in there.items():
        np.testing.assert_array_equal(values, here[name])


def taken_up(folder, N, data, **changes):
    """Let N ranks take a checkpoint up, and put together what they hold: {name: (elements of the model,)}."""
    config = resumed(folder, N, **changes)
    checkpoint, ring = open_checkpoint(folder), ALGORITHMS["ring"]

    def body(comm):
        numerics = zerosim.precision.precision(config.precision)
        rank = Rank(connect(comm), config, convert(data, numerics.dtype, numerics.compute), ring)
        STAGES[config.stages[0]].allocate(rank)
        restore(rank, checkpoint if comm.rank == 0 else open_checkpoint(folder))
        vectors = {"parameters": rank.parameters, **rank.states}
        return {name: list(held(rank, vector)) for name, vector in vectors.items()}

    Psi = sum((a + 1) * b for a, b in zip(checkpoint.manifest.widths, checkpoint.manifest.widths[1:], strict=False))
    found = {}
    for rank in zerosim.run_threads(N, body):
        for name, pieces in rank.items():
            whole, seen = found.setdefault(name, (np.zeros(Psi, pieces[0][1].dtype), np.zeros(Psi, bool)))
            for elements, values in pieces:
                np.testing.assert_array_equal(values[seen[elements]], whole[elements][seen[elements]])
                whole[elements], seen[elements] = values, True
    assert all(seen.all() for _, seen in found.values())
    own = {name: whole for name, (whole, _) in found.items()}
    if "master" in own:  # the 16-bit parameters are its rounded values
        master = own.pop("master")
        np.testing.assert_array_equal(own["parameters"], rounded(master, own["parameters"].dtype))
        own["parameters"] = master
    return own


def rounded(master, dtype):
    import ml_dtypes

    if dtype == np.uint16:
        return master.astype(ml_dtypes.bfloat16).view(np.uint16)
    return master.astype(dtype)


def held(rank, vector):
    """Yield (numbers of elements in the whole model, values) of each bucket of a rank's vector; padding must be 0."""
    offsets = np.cumsum([0, *((a + 1) * b for a, b in zip(rank.model.widths, rank.model.widths[1:], strict=False))])
    full = vector.size == rank.layout.padded
    for bucket in rank.layout.buckets():
        part, where = rank.model.parts[bucket.layer], bucket.full if full else bucket.shard
        inputs, outputs = rank.model.widths[part.layer : part.layer + 2]
        numbers = np.arange((inputs + 1) * outputs) + offsets[part.layer]
        W, b = numbers[: inputs * outputs].reshape(outputs, inputs), numbers[inputs * outputs :]
        mine = np.concatenate([W[part.rows, part.columns].reshape(-1), b[part.biases]])
        first = bucket.start + (0 if full else bucket.part.start)
        elements = mine[first : bucket.stop][: where.stop - where.start]
        values = vector[where]
        assert not values[elements.size :].any()
        yield elements, values[: elements.size].copy()


def test_the_strategies_reach_what_they_should():
    """A linear model, widths of 1, unequal slices, one rank and eight, every collective that there is."""
    seen = []

    @given(trainings(grids=True))
    @settings(max_examples=200, **FIXED)
    def look(training):
        seen.append(training)

    look()
    assert {N for N, _ in seen} == set(range(1, 9))
    assert any(not own["hidden"] for _, own in seen)
    assert any(1 in own["hidden"] for _, own in seen)
    assert any(len(set(own["slices"] or ())) > 1 for _, own in seen)
    assert {own["collective"].partition(":")[0] for _, own in seen} >= {*ALGORITHMS, "auto", "hierarchical"}
    assert {own["tensor_parallel"] * own["pipeline"] for _, own in seen} >= {1, 2, 3}
