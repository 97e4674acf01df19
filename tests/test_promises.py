"""Same bits, same books, same mathematics: the promises that the stages keep for every N, optimizer and precision."""

import numpy as np
import pytest
from conftest import small_data, train_on
from contract import check

import zerosim
from zerosim.optim import RULES

RANKS = (1, 2, 3, 4, 7, 8)
PRECISIONS = ("fp32", "fp16", "bf16", "fp64")
BUCKETS = (0, 1, 5, 13, 50, 10**9)
SHAPES = ((), (3,), (11, 2, 13), (1,))


def assert_books(records):
    report = zerosim.build_report(records)
    assert list(check(report)) == []
    for run in report["runs"]:
        for kind in (run["memory"]["at_rest"], run["traffic"]["per_step"]):
            assert kind["measured"] == kind.get("formula_per_rank", [kind["formula"]] * records.world_size)
        assert run["traffic"]["messages"] == run["traffic"]["messages_formula"]
        assert sum(run["traffic"]["sent"]) == sum(run["traffic"]["received"])


def hashes(records):
    return [run.weights_sha256 for run in records.runs]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("N", RANKS)
def test_same_bits_and_books(N, optimizer, precision):
    """Each optimizer in each precision on each number of ranks; the gradient is clipped for every other one."""
    turn = RANKS.index(N) + [*RULES].index(optimizer) + PRECISIONS.index(precision)
    clip_norm = (None, 0.05)[turn % 2]
    records = train_on(N, optimizer=optimizer, precision=precision, clip_norm=clip_norm, weight_decay=0.01)
    assert len(set(hashes(records))) == 1
    losses = [run.loss for run in records.runs]
    assert losses[1:] == losses[:-1]
    assert records.runs[0].skipped_steps < 4
    if precision != "fp64":
        assert_books(records)


@pytest.mark.parametrize(
    ("N", "hidden", "bucket"),
    [
        (N, hidden, bucket)
        for i, N in enumerate(RANKS)
        for j, hidden in enumerate(SHAPES)
        for bucket in BUCKETS[(i + j) % 2 :: 2]
    ],
)
def test_odd_sizes_and_buckets(N, hidden, bucket):
    """On each number of ranks each shape of a model and each bucket, and each of those with each of these."""
    records = train_on(N, hidden=hidden, bucket=bucket, precision="fp16", steps=2)
    assert len(set(hashes(records))) == 1
    assert_books(records)


@pytest.mark.parametrize("N", RANKS)
def test_more_ranks_than_a_layer_has_elements(N):
    """A regression of one feature: the only layer has two elements, so most slices are padding."""
    data = small_data("regression", features=1, outputs=1)
    records = train_on(N, data, hidden=(), optimizer="momentum", precision="fp32")
    assert records.parameters == 2
    assert records.padded_parameters == -(-2 // N) * N
    assert len(set(hashes(records))) == 1
    assert_books(records)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("N", "k", "bucket"), [(1, 3, 0), (2, 2, 7), (3, 5, 0), (4, 4, 20), (7, 2, 9)])
def test_accumulation_agrees_in_pairs(N, k, bucket, precision):
    records = train_on(
        N, grad_accum=k, bucket=bucket, precision=precision, batch_size=28, optimizer="momentum", lr=0.01
    )
    a, b, c, d = hashes(records)
    assert (a, c) == (b, d)
    assert_books(records)
    worst = max(run.largest_difference for run in records.runs)
    assert worst < {"fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2}[precision]
    if N > 1 and precision == "fp32":
        assert a != c, "the pairs add in different orders; equal bits would mean that one of them does not"


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("fp64", 1e-14)])
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_N_ranks_do_the_mathematics_of_one(tmp_path, task, optimizer, precision, tolerance):
    """Not with Adam: it hides a gradient that is N times too large. What adds in other orders has other weights."""
    weights = []
    for N in (1, 2, 3, 8):
        for accumulation, stage in ((1, 3), (2, 0), (2, 3)):
            file = tmp_path / f"{N}-{accumulation}-{stage}.safetensors"
            train_on(
                N,
                small_data(task, rows=80),
                stages=(stage,),
                optimizer=optimizer,
                precision=precision,
                lr=0.05,
                steps=6,
                batch_size=17,
                clip_norm=0.5,
                grad_accum=accumulation,
                save=str(file),
            )
            weights.append(read(file))
    for other in weights[1:]:
        for name, value in weights[0].items():
            np.testing.assert_allclose(other[name], value, rtol=0, atol=tolerance)


def read(path):
    from safetensors.numpy import load_file

    return load_file(path)


def test_overflow_on_one_rank_skips_the_step_on_all():
    """Row 2 of each batch, which is rank 2's, is so large that its gradient overflows float16 at the first scales."""
    x = np.full((8, 2), 0.01)
    x[[2, 6]] = 5.0
    data = zerosim.make_dataset("spike", x, x[:, :1] * 3)
    settings = {"hidden": (), "batch_size": 4, "test_fraction": 0.0, "shuffle": False, "steps": 12, "lr": 1e-6}
    records = train_on(4, data, precision="fp16", **settings)
    for run in records.runs:
        assert run.skipped_steps > 0
        assert run.skipped_steps < 12
        assert run.final_loss_scale == 2.0 ** (16 - run.skipped_steps)
    assert len(set(hashes(records))) == 1
    assert_books(records)
    text = zerosim.format_report(zerosim.build_report(records))
    assert f"{records.runs[0].skipped_steps} at stage 0" in text
    assert train_on(4, data, precision="bf16", **settings).runs[0].skipped_steps == 0
    early = train_on(4, data, precision="fp16", **{**settings, "steps": 2})
    assert [run.skipped_steps for run in early.runs] == [2, 2, 2, 2]
    assert_books(early)


def test_memory_is_really_freed():
    """At no moment, initialisation included, does stage 3 hold all parameters, or stage 2 all gradients."""
    from zerosim.rank import Rank
    from zerosim.stages import STAGES
    from zerosim.transport.threads import alone, run_threads

    config = zerosim.Config(hidden=(40, 40, 40, 40), precision="fp32", optimizer="sgd", bucket=200, batch_size=8)
    data = zerosim.data.convert(small_data(), np.dtype(np.float32), np.dtype(np.float32))

    def peaks(comm):
        result = []
        for stage in STAGES:
            rank = Rank(comm, config, data)
            stage.allocate(rank)
            at_first = dict(rank.ledger.peak)
            rank.ledger.reset_peak()
            stage.step(rank, np.arange(8))
            result.append((at_first["total"], rank.ledger.peak["total"]))
        return result

    Psi = Rank(alone(), config, data).layout.padded
    (_, (first1, step1), (first2, step2), (first3, step3)) = run_threads(8, peaks)[0]
    assert first1 >= 8 * Psi, "stage 1 holds all parameters and all gradients"
    assert first2 < 8 * Psi
    assert step2 < step1
    assert first3 < 4 * Psi, "parameters, gradients and one bucket at initialisation: less than all parameters"
    assert step3 < 4 * Psi, "and less than that in a step, with a gathered layer and a bucket"


def test_initial_weights_depend_on_seed_and_layer_alone(tmp_path):
    files = []
    for N, stage, bucket, hidden in (
        (1, 0, 0, (7, 6)),
        (4, 3, 0, (7, 6)),
        (3, 2, 5, (7, 6)),
        (8, 1, 11, (7, 6)),
        (2, 3, 0, (7, 5)),
    ):
        file = tmp_path / f"{len(files)}.safetensors"
        train_on(N, stages=(stage,), bucket=bucket, hidden=hidden, lr=0.0, steps=1, save=str(file))
        files.append(read(file))
    for other in files[1:4]:
        for name, value in files[0].items():
            np.testing.assert_array_equal(other[name], value)
    np.testing.assert_array_equal(files[4]["layers.0.weight"], files[0]["layers.0.weight"])
    assert np.std(files[0]["layers.0.weight"]) == pytest.approx(np.sqrt(2 / 5), rel=0.4)
    assert not files[0]["layers.0.bias"].any()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_save_and_init_round_trip(tmp_path, precision):
    """Weights saved, loaded and saved again without learning are the same file, and hash to the report's sum."""
    import hashlib

    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    records = train_on(3, precision=precision, bucket=9, save=str(first))
    payload = b"".join(read(first)[f"layers.{k}.{part}"].tobytes() for k in range(2) for part in ("weight", "bias"))
    assert hashlib.sha256(payload).hexdigest() == records.runs[-1].weights_sha256
    again = train_on(4, precision=precision, stages=(3,), bucket=4, lr=0.0, init=str(first), save=str(second))
    assert first.read_bytes() == second.read_bytes()
    assert again.runs[0].weights_sha256 == records.runs[-1].weights_sha256
