"""The parts, each against something that knows nothing of it."""

import math
import threading

import numpy as np
import pytest

import zerosim
from zerosim import formulas, optim
from zerosim.comm import Comm
from zerosim.commands.common import ProgressLine
from zerosim.ledger import Ledger
from zerosim.mlp import MLP, rectangles
from zerosim.partition import Layout
from zerosim.precision import LossScale, add, decode, encode, finite
from zerosim.words import counted

RANKS = (1, 2, 3, 4, 7, 8)

# ledger --------------------------------------------------------------------------------------------------------------


def test_ledger_counts_now_and_peak():
    ledger = Ledger()
    kept = ledger.take("parameters", 10, np.float32)
    with ledger.borrow("buffers", (3, 4), np.float64):
        assert (ledger.now["parameters"], ledger.now["buffers"]) == (40, 96)
    assert ledger.now["buffers"] == 0
    assert ledger.peak == {
        "parameters": 40,
        "gradients": 0,
        "optimizer_states": 0,
        "activations": 0,
        "buffers": 96,
        "total": 136,
    }
    ledger.reset_peak()
    assert ledger.peak["total"] == 40
    ledger.release(kept)
    assert not any(ledger.now.values())


def test_ledger_finds_what_is_kept_after_its_block():
    ledger = Ledger()
    for _ in range(2):
        with ledger.borrow("buffers", 5, np.float32) as kept:
            pass
        if _ == 0:
            with pytest.raises(RuntimeError, match="still referenced"):
                ledger.take("buffers", 1, np.float32)
            break
    view, kept = kept[2:], None
    with pytest.raises(RuntimeError, match="still referenced"):
        ledger.take("buffers", 1, np.float32)
    del view
    ledger.take("buffers", 1, np.float32)


def test_ledger_refuses_a_class_it_does_not_know():
    with pytest.raises(KeyError):
        Ledger().take("parametres", 1, np.float32)


# partition -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", [0, 1, 3, 8, 10, 64, 10**6])
@pytest.mark.parametrize("N", RANKS)
def test_slices_cover_everything_once(N, bucket):
    sizes = [13, 1, 100, 97]
    ranks = [Layout(sizes, N, rank, bucket) for rank in range(N)]
    owner = np.zeros(ranks[0].padded, int)
    for layout in ranks:
        shard = np.zeros(layout.shard, int)
        for b in layout.buckets():
            owner[b.own] += 1
            shard[b.shard] += 1
            assert b.size % N == 0
            assert not bucket or b.size <= max(bucket, N)
            assert np.arange(layout.padded)[b.full][b.part].tolist() == np.arange(layout.padded)[b.own].tolist()
            inside = np.arange(layout.padded)[layout.layer(b.layer)][b.within]
            assert inside.tolist() == np.arange(layout.padded)[b.full].tolist()
        assert (shard == 1).all()
        for k, size in enumerate(sizes):
            assert [e for b in layout.buckets(k) for e in range(b.start, b.stop)] == list(range(size))
    assert (owner == 1).all()
    assert ranks[0].padded == sum(math.ceil(size / N) * N for size in sizes)


@pytest.mark.parametrize("bucket", [0, 1, 8, 10, 64])
@pytest.mark.parametrize("shares", [(2, 1), (1, 3, 2), (5, 1, 1, 1), (1, 2, 3, 4, 5, 6, 7)])
def test_slices_in_proportion_to_shares(shares, bucket):
    """Each element is one rank's; each bucket is cut in that proportion; what lies in a shard is said rightly."""
    sizes, parts = [13, 1, 100, 97], sum(shares)
    ranks = [Layout(sizes, shares, rank, bucket) for rank in range(len(shares))]
    owner = np.zeros(ranks[0].padded, int)
    for share, layout in zip(shares, ranks, strict=True):
        assert layout.shard * parts == layout.padded * share
        shard = np.full(layout.shard, -1)
        for b in layout.buckets():
            assert (b.own.stop - b.own.start) * parts == b.size * share
            owner[b.own] += 1
            shard[b.shard] = np.arange(b.own.start, b.own.stop)
        assert (np.diff(shard) > 0).all()
        assert shard.min() >= 0
        for where in (slice(0, layout.shard), slice(layout.shard // 3, layout.shard // 2)):
            told = np.full(layout.shard, -1)
            for layer, first, place in layout.elements(where, full=False):
                numbers = layout.layer(layer).start + first + np.arange(place.stop - place.start)
                told[where][place] = numbers
            real = np.array(
                [
                    e - layout.layer(k).start < sizes[k]
                    for k in range(4)
                    for e in range(layout.layer(k).start, layout.layer(k).stop)
                ]
            )
            np.testing.assert_array_equal(told[where], np.where(real[shard[where]], shard[where], -1))
    assert (owner == 1).all()


# the door ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", RANKS)
def test_a_few_numbers(N):
    def run(transport):
        comm = Comm(transport, Ledger())
        assert comm.sum(0.1, comm.rank) == [pytest.approx(0.1 * N), N * (N - 1) / 2]
        everyone = [b"x" * rank for rank in range(N)]
        assert comm.gather_bytes(b"x" * comm.rank) == everyone
        assert comm.collect_bytes(b"x" * comm.rank) == ([] if comm.rank else everyone)
        assert set(comm.sent) == {"control"}

    zerosim.run_threads(N, run)


@pytest.mark.parametrize("N", [2, 4, 8])
@pytest.mark.parametrize("collective", ["auto", "doubling", "ring", "binomial"])
def test_vectors_that_go_together(N, collective):
    """Of several sizes, by several algorithms at once: each as if it went alone, again and again."""

    def run(transport):
        door = Comm(transport, Ledger(), collective)
        for turn in range(20):
            vectors = [np.arange(n * N, dtype=np.float32) + turn for n in (450, 33_000, 0, 150, 1, 70_000)]
            summed, reduced, gathered = ([vector.copy() for vector in vectors] for _ in range(3))
            for vector in gathered:
                own = door.own(vector).copy()
                vector.fill(0)
                door.own(vector)[...] = own
            door.all_reduce(*summed)
            door.reduce_scatter(*reduced)
            door.all_gather(*gathered)
            for vector, a, b, c in zip(vectors, summed, reduced, gathered, strict=True):
                np.testing.assert_array_equal(a, vector * N)
                np.testing.assert_array_equal(door.own(b), door.own(vector) * N)
                np.testing.assert_array_equal(c, vector)
        assert not any(door._ledger.now.values())

    zerosim.run_threads(N, run)


def test_a_thread_that_raises_ends_all():
    def run(comm):
        if comm.rank == 2:
            raise ValueError("a cosmic ray")
        Comm(comm, Ledger()).sum(1.0)

    with pytest.raises(ValueError, match="cosmic") as caught:
        zerosim.run_threads(4, run)
    assert "rank 2 of 4" in caught.value.__notes__[0]
    assert threading.active_count() < 4


# formulas ------------------------------------------------------------------------------------------------------------


def test_model_states_of_the_paper():
    """Figure 1 (7.5 billion parameters, 64 ranks), section 1 (1 trillion, 1024 ranks), section 3.1 (GPT-2), in GB."""
    figure1 = [sum(formulas.model_states(stage, 7.5e9, 64)) / 1e9 for stage in range(4)]
    assert [round(gb, 1) for gb in figure1] == [120.0, 31.4, 16.6, 1.9]
    assert sum(formulas.model_states(3, 1e12, 1024)) / 1e9 == 15.625
    assert formulas.K("adam", "fp16") == 12
    assert sum(formulas.model_states(0, 1.5e9, 1)) == 24e9, "section 3.1: GPT-2 needs 24 GB"


def test_traffic_of_the_paper():
    """Section 7: 2 Psi, 2 Psi, 2 Psi, 3 Psi."""
    assert [sum(formulas.volume(stage, 1).values()) for stage in range(4)] == [2, 2, 2, 3]
    assert [sum(formulas.volume(stage, 1, 5).values()) for stage in range(4)] == [2, 2, 6, 15]


# model ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("widths", [[4, 3], [5, 7, 3], [6, 9, 150, 4]])
def test_gradient_against_finite_difference(widths, task):
    """Along random directions, in float64, at inputs whose hidden units stay away from relu's kink."""
    random = np.random.default_rng(3)
    model = MLP(widths, np.dtype(float), np.dtype(float), Ledger())
    weights = [random.standard_normal(size) / math.sqrt(widths[k]) for k, size in enumerate(model.sizes)]
    x, margin = random.standard_normal((11, widths[0])), 1e-4
    x = np.array([row for row in x if clear_of_kinks(model, weights, row[:, None], margin)]).T
    rows = x.shape[1]
    assert rows >= 3
    y = random.integers(0, widths[-1], rows) if task == "cross_entropy" else random.standard_normal((rows, widths[-1]))

    def loss_at(parameters):
        h = x
        for k in model.layers:
            h = model.forward(k, parameters[k], h)
        return getattr(model, task)(h, y, 1.0)

    gradient = [np.full(size, np.nan) for size in model.sizes]
    activations = [x.copy()]
    for k in model.layers:
        activations.append(model.forward(k, weights[k], activations[k]))
    getattr(model, task)(activations[-1], y, 1.0)
    for k in reversed(model.layers):
        cut = model.sizes[k] // 3 + 1
        for start in range(0, model.sizes[k], cut):
            stop = min(start + cut, model.sizes[k])
            model.parameter_gradient(activations[k], activations[k + 1], start, stop, gradient[k][start:stop])
        if k:
            model.input_gradient(k, weights[k], activations[k + 1], activations[k])
    for _ in range(5):
        direction = [random.standard_normal(w.shape) for w in weights]
        step = 1e-6
        ahead = loss_at([w + step * d for w, d in zip(weights, direction, strict=True)])
        behind = loss_at([w - step * d for w, d in zip(weights, direction, strict=True)])
        slope = sum(float(g @ d) for g, d in zip(gradient, direction, strict=True))
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-6, abs=1e-7)


def clear_of_kinks(model, weights, x, margin):
    h = x
    for k in model.layers[:-1]:
        W, b = model.views(k, weights[k])
        z = W @ h + b[:, None]
        if np.abs(z).min() < margin:
            return False
        h = np.maximum(z, 0)
    return True


@pytest.mark.parametrize(
    ("start", "stop", "width"), [(0, 1000, 7), (3, 5, 7), (3, 22, 7), (6, 2000, 1), (0, 7, 7), (2, 2, 7)]
)
def test_rectangles_tile_a_range(start, stop, width):
    matrix = np.zeros(3000 // width * width).reshape(-1, width)
    for first, rows, columns in rectangles(start, stop, width, 128):
        assert rows.stop - rows.start <= 128
        assert first == rows.start * width + columns.start
        matrix[rows, columns] += 1
    np.testing.assert_array_equal(matrix.reshape(-1).nonzero()[0], np.arange(start, stop))
    assert matrix.max(initial=0) <= 1


# optimizers ----------------------------------------------------------------------------------------------------------


def textbook(name, p, gradients, lr, decay):
    """Each optimizer once more, a number at a time in Python's floats, straight from its paper or PyTorch's manual."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        if name == "adamw":
            p -= lr * decay * p
        else:
            g += decay * p
        if name == "sgd":
            p -= lr * g
        elif name == "momentum":
            m = 0.9 * m + g
            p -= lr * m
        else:
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            p -= lr * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", optim.RULES)
def test_optimizer_against_the_textbook(name, decay):
    random = np.random.default_rng(0)
    p, gradients = random.standard_normal(5), random.standard_normal((8, 5))
    expected = [textbook(name, p[i], gradients[:, i], 0.01, decay) for i in range(5)]
    optimizer = optim.Optimizer(name, 0.01, decay, mixed=False)
    states = {state: np.zeros(5) for state in optimizer.states}
    for g in gradients:
        optimizer.t += 1
        optimizer.step(p, g / 4, states, 4.0, Ledger())
    np.testing.assert_allclose(p, expected, rtol=1e-13)


def test_master_weights_keep_what_fp16_would_lose():
    optimizer = optim.Optimizer("sgd", 1.0, 0.0, mixed=True)
    master, parameters = np.ones(3, np.float32), np.ones(3, np.float16)
    for _ in range(10):
        optimizer.t += 1
        optimizer.step(parameters, np.full(3, 1e-4, np.float16), {"master": master}, 1.0, Ledger())
    assert master[0] == pytest.approx(1 - 1e-3, rel=1e-4)
    np.testing.assert_array_equal(parameters, master.astype(np.float16))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_sum_of_squares_sees_what_is_not_finite(bad):
    gradient = np.full(40_000, 60000, np.float16)
    assert optim.sum_of_squares(gradient, np.dtype(np.float32), Ledger()) == pytest.approx(40_000 * 60000.0**2)
    gradient[31_234] = bad
    assert not math.isfinite(optim.sum_of_squares(gradient, np.dtype(np.float32), Ledger()))


def test_decoding_every_float16():
    """All 65536 of them, and with the infinite ones left out, as a strided matrix too; also where few are subnormal."""
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    normal = finite[np.abs(finite) >= 2.0**-14]
    for source in (every, finite, finite[::-3], finite[:60_000].reshape(200, 300)[:, 7:90], finite[:0]):
        check_decoding(source)
    for some in (every, finite):
        mostly_normal = np.concatenate([some, normal])
        check_decoding(mostly_normal)
        check_decoding(mostly_normal[:120_000].reshape(200, 600)[:, 7:390])
        check_decoding(np.tile(mostly_normal, 2)[:200_001].reshape(3, 66667)[:, 9:])
    check_decoding(np.tile(every, 4)[:200_001].reshape(3, 66667)[:, 9:])


def check_decoding(source):
    out = np.empty(source.shape, np.float32)
    decode(source, out, ledger := Ledger())
    np.testing.assert_array_equal(out.view(np.int32), source.astype(np.float32).view(np.int32))
    assert not any(ledger.now.values())


def test_decoding_with_a_factor():
    """The factor is applied to the exact value, once; also one that is not less than 1, and to what is not finite."""
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = every[~np.isnan(every)]
    normal = every[np.abs(every) >= 2.0**-14]
    for factor in (2.0**-16, 0.3, 1.0, 7.0, 2.0**20):
        for source in (every, np.concatenate([every, normal])):
            out = np.empty(source.size, np.float32)
            decode(source, out, Ledger(), factor)
            np.testing.assert_array_equal(out, source.astype(np.float32) * np.float32(factor))


def float32_to_round():
    """Of every float16 the value, the middle to the next, and what lies just beside it; and numbers of all sizes."""
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    values = np.sort(every[np.isfinite(every)].astype(np.float32))
    middles = (values[1:] + values[:-1]) / 2
    some = np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint32).view(np.float32)
    large = np.float32([65519.99, 65520, 65535.9, 65536, 1e38, np.inf, -np.inf, np.nan])
    beside = np.concatenate([np.nextafter(middles, np.float32(side)) for side in (-1e9, 1e9)])
    return {"values": values, "middles": middles, "beside": beside, "some": some[~np.isnan(some)], "large": large}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("which", ["values", "middles", "beside", "some", "large"])
def test_encoding_rounds_as_numpy_does(which, dtype):
    import ml_dtypes

    source, dtype = float32_to_round()[which], np.dtype(getattr(ml_dtypes, dtype, dtype))
    with np.errstate(over="ignore"):
        for part in (source, source[::-3], source[: source.size // 8 * 8].reshape(8, -1)[:, 1:]):
            out = np.empty(part.shape, dtype)
            encode(np.ascontiguousarray(part), out, ledger := Ledger())
            np.testing.assert_array_equal(out.view(np.uint16), part.astype(dtype).view(np.uint16))
    assert not any(ledger.now.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_adding_on_the_wire(dtype):
    import ml_dtypes

    random, dtype = np.random.default_rng(0), np.dtype(getattr(ml_dtypes, dtype, dtype))
    for n in (0, 1, 100_000):
        a, b = (random.standard_normal(n) * 2.0 ** random.integers(-24, 12, n) for _ in range(2))
        a, b = a.astype(dtype), b.astype(dtype)
        expected = (a.astype(np.float32) + b.astype(np.float32)).astype(dtype)
        add(a, b, a, Ledger())
        np.testing.assert_array_equal(a.view(f"u{dtype.itemsize}"), expected.view(f"u{dtype.itemsize}"))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_number_that_is_not_finite_is_seen(bad):
    numbers = np.full(100_000, -65504, np.float16)
    assert finite(numbers, Ledger())
    assert finite(numbers[:0], Ledger())
    numbers[77_777] = bad
    assert not finite(numbers, Ledger())


def test_loss_scale():
    scale = LossScale(on=True)
    scale.update(overflowed=True)
    assert scale.value == 2**15
    for _ in range(2000):
        scale.update(overflowed=False)
    assert scale.value == 2**16
    off = LossScale(on=False)
    off.update(overflowed=True)
    assert off.value == 1


# the house -----------------------------------------------------------------------------------------------------------


def test_imports_point_downward():
    """As drawn in the README: each module's imports of zerosim's own, and no MPI but in one place."""
    import ast
    from pathlib import Path

    root = Path(zerosim.__file__).parent
    allowed = {
        "formulas": set(),
        "ledger": set(),
        "arena": {"ledger"},
        "partition": set(),
        "errors": set(),
        "blas": set(),
        "heap": set(),
        "precision": {"ledger"},
        "optim": {"ledger", "precision"},
        "parallel": {"collectives"},
        "mlp": {"ledger", "parallel", "precision"},
        "tensor_parallel": {"collectives", "comm", "ledger", "mlp", "parallel", "precision"},
        "loop": {"comm", "config", "errors", "ledger", "mlp", "optim", "partition", "transport"},
        "comm": {"collectives", "errors", "ledger", "precision", "transport"},
        "doors": {"collectives", "comm", "ledger", "parallel", "transport"},
        "spans": {"ledger", "rank", "transport"},
        "trace": {"collectives", "comm", "config", "errors", "jsonfile", "spans", "transport"},
        "signals": set(),
        "checkpoint.shards": {"mlp", "parallel", "partition"},
        "checkpoint.manifest": {"config", "errors", "jsonfile", "optim", "parallel", "precision"},
        "checkpoint.reader": {"checkpoint", "config", "errors", "precision"},
        "checkpoint.restore": {"checkpoint", "errors", "rank"},
        "whole": {"comm", "parallel", "rank"},
        "cluster": {"errors", "jsonfile"},
        "jsonfile": {"errors", "outside"},
        "outside": {"errors"},
        "clock": {"cluster", "collectives"},
        "words": {"errors"},
        "gallery.bug": {"data"},
        "gallery.bugs": {"collectives", "comm", "data", "gallery", "optim", "rank", "stages"},
        "gallery.instruments": {"collectives", "config", "data", "errors", "myths", "schedule", "stages", "transport"},
        "exercises.numbers": {"exercises"},
        "exercises.memory": {"exercises", "myths"},
        "exercises.traffic": {"collectives", "comm", "exercises", "ledger", "stages", "transport"},
        "exercises.planning": {"exercises", "report"},
        "exercises.ranks": {"transport"},
        "exercises.unbooked": {"exercises"},
        "exercises.bits": {"config", "exercises", "partition"},
        "exercises.collectives": {"collectives", "comm", "exercises", "ledger", "transport"},
        "exercises.stages": {
            "collectives",
            "config",
            "data",
            "exercises",
            "ledger",
            "precision",
            "rank",
            "stages",
            "transport",
        },
        "overlap": {"errors", "machine", "plan"},
    }
    for path in root.rglob("*.py"):
        module = path.relative_to(root).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")
        tree = ast.parse(path.read_text())
        imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        own = {name.split(".")[1] for name in imported if name.startswith("zerosim.")} - {"words"}
        if module in allowed:
            assert own <= allowed[module], module
        if module.startswith("collectives"):
            assert own <= {"collectives"}
        if module.startswith("witness") and module != "witness.torch":
            assert own <= {"errors", "heap", "witness"}, "a witness knows nothing of the books"
        if module.startswith("figures"):
            assert own <= {"collectives", "figures", "formulas", "report"}
        if module in ("report.tables", "report.books", "report.text"):
            inside = {name.split(".")[2] for name in imported if name.startswith("zerosim.report.")}
            assert own <= {"collectives", "formulas", "report"}, "what is printed is in the report"
            assert inside <= {"books", "text"}
            assert "zerosim.report" not in imported
        if module.startswith("stages"):
            assert own <= {"stages", "rank", "initial", "partition", "precision", "schedule"}
        assert not any(n.startswith("mpi4py") for n in imported) or module == "transport.mpi", module
        for node in ast.walk(tree):
            if module.startswith("stages") and isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{module}.{node.name} is longer than a screen"


def test_words_for_numbers():
    assert [counted(n, "step") for n in (0, 1, 2, 1024)] == ["0 steps", "1 step", "2 steps", "1,024 steps"]


@pytest.mark.parametrize("live", [True, False])
def test_progress_is_erased_or_lines_of_its_own(live, monkeypatch, capsys):
    """A terminal's line is gone at the end; in a file, what is over in a moment leaves nothing, the last step apart."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("sys.stderr.isatty", lambda: live, raising=False)
    progress = ProgressLine()
    progress.tell("a bug: running")
    now += 1
    progress.tell("a bug: still running")
    progress.done()
    shown = [f"{text:<70}" for text in ("a bug: running", "a bug: still running", "")]
    assert capsys.readouterr().err.split("\r") == (["", *shown, ""] if live else [""])
    now += 3
    progress.tell("another bug")
    progress.done()
    progress(0, 1, 9, 0.5)
    progress(0, 9, 9, 0.25)
    progress.done()
    said = capsys.readouterr().err
    if live:
        assert said.endswith(f"\r{'':<70}\r")
    else:
        assert said.splitlines() == ["another bug", "stage 0: step 9 of 9, loss 0.2500"]


def test_importing_zerosim_is_light():
    import subprocess
    import sys

    heavy = ("matplotlib", "mpi4py", "rich", "safetensors", "ml_dtypes", "PIL")
    code = f"import sys, zerosim; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
