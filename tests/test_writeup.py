"""The library, and the write-up's worked examples through it: on any number of ranks the same as by hand."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import mpirun, small_data, train_on

import zerosim
from zerosim import formulas
from zerosim.comm import Comm
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.mlp import MLP

README = Path(__file__).parent.parent / "README.md"
RANKS = (1, 2, 3, 4, 7, 8)
PLAIN = {"sgd": zerosim.SGD, "momentum": zerosim.Momentum, "adam": zerosim.Adam, "adamw": zerosim.AdamW}
SHAPES = ((3, 5), (5,), (), (17,))
STEPS = 4


def parameters(dtype=np.float64):
    random = np.random.default_rng(3)
    return [zerosim.Parameter(random.standard_normal(shape).astype(dtype)) for shape in SHAPES]


def gradient(step, rank, i, dtype=np.float64):
    return np.asarray(np.random.default_rng([step, rank, i]).standard_normal(SHAPES[i]), dtype)


def set_gradients(made, step, ranks, dtype):
    """Each parameter's gradient: the mean of those of the ranks."""
    for i, parameter in enumerate(made):
        parameter.grad = np.asarray(np.mean([gradient(step, r, i) for r in ranks], axis=0), dtype)


def wrapped(comm, name, dtype):
    made = parameters(dtype)
    optimizer = zerosim.ZeroRedundancyOptimizer(PLAIN[name](made, lr=0.05, weight_decay=0.1), comm)
    before = optimizer.sent
    for step in range(STEPS):
        set_gradients(made, step, [optimizer.rank], dtype)
        optimizer.step()
    sent = {verb: optimizer.sent[verb] - before.get(verb, 0) for verb in ("reduce_scatter", "all_gather")}
    return [parameter.data.copy() for parameter in made], optimizer.held, sent


# the wrapper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("N", RANKS)
def test_as_the_plain_optimizer_with_a_shard_of_its_states(N, name, dtype):
    everyone = zerosim.run_threads(N, wrapped, name, dtype)
    made = parameters(dtype)
    first = [parameter.data.copy() for parameter in made]
    plain = PLAIN[name](made, lr=0.05, weight_decay=0.1)
    assert plain.held["optimizer_states"] == 0
    for step in range(STEPS):
        set_gradients(made, step, range(N), dtype)
        plain.step()
    w = np.dtype(dtype).itemsize
    whole, precision = sum(parameter.data.size for parameter in made), "fp32" if w == 4 else "fp64"
    K, Psi = formulas.K(name, precision), sum(-(-parameter.data.size // N) * N for parameter in made)
    assert plain.held["optimizer_states"] == K * whole
    states = {**formulas.model_states(1, Psi, N, w, K)._asdict(), "activations": 0, "buffers": 0}
    volume = {verb: elements * w * (N - 1) / N * STEPS for verb, elements in formulas.volume(1, Psi).items()}
    for values, held, sent in everyone:
        for own, ranks0, other, begun in zip(values, everyone[0][0], made, first, strict=True):
            np.testing.assert_array_equal(own, ranks0)
            np.testing.assert_allclose(own, other.data, rtol=0, atol=4e-6 if w == 4 else 1e-14)
            assert np.abs(own - begun).max() > 1e-3
        assert held == states
        assert sent == volume


def test_no_rank_ever_holds_whole_states(monkeypatch):
    taken = []
    take = Ledger.take

    def spy(self, cls, shape, dtype):
        taken.append((cls, int(np.prod(shape))))
        return take(self, cls, shape, dtype)

    monkeypatch.setattr(Ledger, "take", spy)
    zerosim.run_threads(4, wrapped, "adam", np.float64)
    Psi = sum(-(-int(np.prod(shape)) // 4) * 4 for shape in SHAPES)
    assert [size for cls, size in taken if cls == "optimizer_states"] == [Psi // 4] * 8


def test_gradients_are_accumulated_until_the_step():
    def run(comm, zeroed):
        made = parameters()
        optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD(made, lr=0.1), comm)
        for _ in range(2):
            optimizer.zero_grad()
            for i, parameter in enumerate(made):
                if zeroed:
                    parameter.grad += gradient(0, 0, i)
                    parameter.grad += gradient(1, 0, i)
                else:
                    parameter.grad = gradient(0, 0, i) + gradient(1, 0, i)
            optimizer.step()
            assert [parameter.grad for parameter in made] == [None] * len(made)
        return [parameter.data.copy() for parameter in made]

    for added, assigned in zip(
        zerosim.run_threads(2, run, True)[1], zerosim.run_threads(2, run, False)[0], strict=True
    ):
        np.testing.assert_array_equal(added, assigned)


@pytest.mark.parametrize("name", PLAIN)
def test_as_torch(name):
    """An outside leg: the same numbers through torch.optim."""
    torch = pytest.importorskip("torch")
    made = parameters()
    theirs = [torch.tensor(parameter.data.copy(), requires_grad=True) for parameter in made]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(name)
    settings = {"lr": 0.05, "weight_decay": 0.1}
    other = kind(theirs, **settings) if kind else torch.optim.SGD(theirs, momentum=0.9, **settings)
    for step in range(STEPS):
        for i, tensor in enumerate(theirs):
            tensor.grad = torch.tensor(np.mean([gradient(step, rank, i) for rank in range(3)], axis=0))
        other.step()
    for own, tensor in zip(zerosim.run_threads(3, wrapped, name, np.float64)[0][0], theirs, strict=True):
        np.testing.assert_allclose(own, tensor.detach().numpy(), rtol=0, atol=1e-12)


# bad use -------------------------------------------------------------------------------------------------------------


def refused(function, *said, N=2):
    with pytest.raises(InputError) as caught:
        zerosim.run_threads(N, function)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in said), message


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: zerosim.Parameter([1, 2]), ["int64", "float32 or float64"]),
        (lambda: zerosim.Parameter(np.zeros((0, 3))), ["(0, 3)", "one or more"]),
        (lambda: zerosim.SGD([]), ["empty"]),
        (lambda: zerosim.SGD([np.zeros(3)]), ["ndarray", "zerosim.Parameter"]),
        (lambda: zerosim.SGD([zerosim.Parameter([1.0])] * 2), ["twice"]),
        (lambda: zerosim.SGD([*parameters(), *parameters(np.float32)]), ["float32 and float64", "one dtype"]),
        (lambda: zerosim.Adam(parameters(), lr=-1), ["lr", "-1"]),
        (lambda: zerosim.SGD(parameters()).step(), ["parameters[0]", "missing", "zero_grad()"]),
        (lambda: zerosim.ZeroRedundancyOptimizer(parameters()), ["list", "zerosim.SGD"]),
        (lambda: zerosim.ZeroRedundancyOptimizer(parameters(), zerosim.SGD), ["SGD is a class", "SGD(parameters"]),
        (lambda: zerosim.ZeroRedundancyOptimizer(zerosim.Adam), ["Adam is a class", "Adam(parameters"]),
        (lambda: zerosim.ZeroRedundancyOptimizer(zerosim.SGD(parameters()), 3), ["comm: 3", "mpi4py", "None"]),
        (lambda: zerosim.ZeroRedundancyOptimizer(zerosim.SGD(parameters()), int), ["comm: <class 'int'>", "mpi4py"]),
        (lambda: zerosim.train(zerosim.Config(steps=1), 3), ["comm: 3", "run_threads"]),
        (lambda: zerosim.SGD(zerosim.Parameter([1.0])), ["Parameter is no list", "[parameter]"]),
        (lambda: zerosim.SGD(zerosim.Linear(2, 2)), ["Linear is no list", "model.parameters"]),
        (lambda: zerosim.Parameter([[1.0], [1.0, 2.0]]), ["data is no array", "equal lengths"]),
        (lambda: zerosim.Linear(0, 3), ["inputs is 0", "1 or more"]),
        (lambda: zerosim.Linear(3, 2.0), ["outputs is 2.0", "whole number"]),
        (lambda: zerosim.Linear(3, 2, seed=-1), ["seed is -1", "0 or more"]),
        (lambda: zerosim.Linear(3, 2, seed=None), ["seed is None", "whole number"]),
        (lambda: zerosim.Linear(3, 2, dtype=np.float16), ["float16", "float32 or float64"]),
        (lambda: zerosim.Linear(3, 2, dtype="half a float"), ["'half a float'", "float32 or float64"]),
    ],
)
def test_bad_use(make, said):
    refused(lambda comm: make(), *said, N=1)


X = np.ones((4, 3))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X[:, :2], [0] * 4, ["x is float64 (4, 2)", "(rows, 3)"]),
        (X[0], [0], ["x is float64 (3,)", "(rows, 3)"]),
        (X[:0], [], ["no rows", "one or more"]),
        ("three", [0], ["x is <U5 ()", "numbers"]),
        ([[1, 2, 3], [1]], [0, 0], ["x is no array", "equal lengths"]),
        (X, [0] * 3, ["y is int64 (3,)", "(4,)"]),
        (X, [[0]] * 4, ["y is int64 (4, 1)", "(4,)"]),
        (X, 0, ["y is int64 ()", "(4,)"]),
        (X, np.zeros(4), ["y is float64 (4,)", "integers"]),
        (X, [True] * 4, ["y is bool (4,)", "integers"]),
        (X, [0, 1, -1, 0], ["y[2] is -1", "0 to 9"]),
        (X, [0, 10, -1, 0], ["y[1] is 10", "0 to 9"]),
    ],
)
def test_bad_rows(x, y, said):
    """What had been a wrong loss without a word, or an error of NumPy's; and the gradient is left alone."""
    model = zerosim.Linear(3, 10)
    refused(lambda comm: model.backward(x, y), *said, N=1)
    assert model.parameters[0].grad is None


def test_good_rows_of_any_kind():
    """Lists and narrow integers do as well; widths and seeds may be NumPy's."""
    model, other = zerosim.Linear(np.int64(3), np.int32(10), seed=np.uint8(4)), zerosim.Linear(3, 10, seed=4)
    y = [0, 9, 3, 3]
    losses = {model.backward(X, y), model.backward(X.tolist(), np.array(y, np.uint8)), other.backward(X, np.array(y))}
    assert len(losses) == 1
    np.testing.assert_array_equal(model.parameters[0].grad, 2 * other.parameters[0].grad)
    model.parameters[0].grad = np.zeros(3)
    refused(lambda comm: model.backward(X, y), "grad is float64 (3,)", N=1)


def test_a_class_on_one_rank_stops_all():
    def run(comm):
        optimizer = zerosim.SGD(parameters()) if comm.rank else zerosim.SGD
        with pytest.raises(InputError) as caught:
            zerosim.ZeroRedundancyOptimizer(optimizer, comm)
        return str(caught.value)

    assert all("SGD is a class" in message for message in zerosim.run_threads(3, run))


@pytest.mark.parametrize(
    ("grad", "said"),
    [
        (None, ["parameters[1]", "missing"]),
        (np.zeros(4), ["parameters[1]", "float64 (4,)", "float64 (5,)"]),
        (np.zeros(5, np.float32), ["float32 (5,)", "float64 (5,)"]),
        ([0.0] * 5, ["list"]),
    ],
)
def test_a_bad_gradient_on_one_rank_stops_all(grad, said):
    def run(comm):
        made = parameters()
        optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD(made, lr=0.1), comm)
        optimizer.zero_grad()
        if optimizer.rank == 1:
            made[1].grad = grad
        with pytest.raises(InputError) as caught:
            optimizer.step()
        return str(caught.value)

    messages = zerosim.run_threads(3, run)
    assert messages == messages[:1] * 3
    assert all(word in messages[0] for word in said)


def test_ranks_that_begin_differently_are_refused():
    def run(comm):
        model = zerosim.Linear(3, 2, seed=comm.rank)
        zerosim.ZeroRedundancyOptimizer(zerosim.SGD(model.parameters, lr=0.1), comm)

    refused(run, "rank 1", "rank 0", "seed")


def test_an_optimizer_is_wrapped_once_and_before_it_steps():
    plain = zerosim.Adam(parameters())
    plain.zero_grad()
    plain.step()
    refused(lambda comm: zerosim.ZeroRedundancyOptimizer(plain), "has stepped", N=1)
    plain = zerosim.Adam(parameters())
    zerosim.ZeroRedundancyOptimizer(plain)
    refused(lambda comm: zerosim.ZeroRedundancyOptimizer(plain), "wrapped already", N=1)
    for method in (plain.step, plain.zero_grad):
        with pytest.raises(InputError, match=f"{method.__name__}\\(\\) of its ZeroRedundancyOptimizer"):
            method()


# the worked examples -------------------------------------------------------------------------------------------------


def descend(comm, x, y, w0, lr, steps):
    """Gradient descent on J(w) = (y - w x)^2, with the model's own forward and backward passes; w after each step."""
    ledger = Ledger()
    model = MLP([1, 1], np.dtype(np.float64), np.dtype(np.float64), ledger)
    w = zerosim.Parameter([w0])  # W alone, no bias
    optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD([w], lr=lr), comm)
    seen = [w0]
    for _ in range(steps):
        optimizer.zero_grad()
        dy = model.product(0, w.data, np.array([[x]]))
        model.squared_error(dy, np.array([[y]]), 1.0)
        model.parameter_gradient(np.array([[x]]), dy, 0, 1, w.grad)
        ledger.release(dy)
        del dy
        optimizer.step()
        seen.append(float(w.data[0]))
    return seen


@pytest.mark.parametrize("N", [1, 2, 4])
@pytest.mark.parametrize("lr", [0.05, 0.1, 0.2, 0.3])
def test_gradient_descent_on_a_parabola(N, lr):
    """Against w_t = w* + (w_0 - w*) (1 - 2 lr x^2)^t: it converges, swings, and at 0.3 diverges."""
    x, y, w0 = 2.0, 6.0, 0.5
    seen = zerosim.run_threads(N, descend, x, y, w0, lr, 8)
    t = np.arange(9)
    np.testing.assert_allclose(seen[0], y / x + (w0 - y / x) * (1 - 2 * lr * x * x) ** t, rtol=1e-12)
    assert seen == seen[:1] * N


def four_numbers(comm):
    x = zerosim.Parameter([1.0, 1.0, 0.0, 0.0])
    optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD([x], lr=0.5), comm)
    x.grad = np.array([-0.5, 0.5, -0.3, 0.3])
    optimizer.step()
    return x.data.copy()


@pytest.mark.parametrize("N", [1, 2, 4])
def test_four_numbers(N, monkeypatch):
    after = np.array([1.25, 0.75, 0.15, -0.15])
    for x in zerosim.run_threads(N, four_numbers):
        np.testing.assert_allclose(x, after, rtol=1e-15)
    monkeypatch.setattr(Comm, "all_gather", lambda self, *vectors: None)  # then each has its own slice only
    for rank, x in enumerate(zerosim.run_threads(N, four_numbers)):
        own = np.arange(4) // (4 // N) == rank
        np.testing.assert_allclose(x, np.where(own, after, [1, 1, 0, 0]), rtol=1e-15)


def the_readmes():
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "Linear" in block)
    return code


def test_the_readmes_example(capsys):
    """A 10-to-10 linear model on one rank and on four: the lines, and the same losses to rounding."""
    exec(the_readmes(), names := {})
    lines = re.findall(r"^Epoch (\d+)/10, Loss: (\d+\.\d+)$", capsys.readouterr().out, re.M)
    assert [int(epoch) for epoch, _ in lines] == [*range(1, 11)] * 2
    one, four = names["losses"][1], names["losses"][4]
    assert [f"{loss:.4f}" for loss in one + four] == [loss for _, loss in lines]
    np.testing.assert_allclose(one, four, rtol=1e-6)
    assert len(one) == 10
    assert all(later < earlier for earlier, later in pairwise(one))


def test_the_readmes_example_under_mpi(tmp_path, capsys):
    script = tmp_path / "learn.py"
    body = the_readmes().partition("\nlosses = ")[0]
    script.write_text(f"{body}\nimport json\nfrom mpi4py import MPI\nlosses = learn(MPI.COMM_WORLD)\n")
    with script.open("a") as file:
        file.write("if MPI.COMM_WORLD.rank == 0:\n    print(json.dumps(losses))\n")
    done = mpirun(4, "-m", "mpi4py", script)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert len(lines) == 12
    assert lines[9].startswith("Epoch 10/10, Loss: ")
    exec(the_readmes(), names := {})
    assert json.loads(last) == names["losses"][4]


def test_the_linear_model_is_that_of_train():
    """The same losses as `zerosim.train` without hidden layers, from the same seed and on the same rows."""
    data = small_data(rows=16)
    records = train_on(
        1, data, hidden=(), optimizer="sgd", lr=0.1, precision="fp32", test_fraction=0.0, shuffle=False, seed=5,
        stages=(1,),
    )  # fmt: skip
    model = zerosim.Linear(5, 3, seed=5)
    optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD(model.parameters, lr=0.1))
    losses = []
    for _ in records.runs[0].loss:
        optimizer.zero_grad()
        losses.append(model.backward(data.x, np.asarray(data.y)))
        optimizer.step()
    np.testing.assert_allclose(losses, records.runs[0].loss, rtol=1e-6)


def test_examples_under_mpi(tmp_path):
    script = tmp_path / "examples.py"
    script.write_text(
        "import json\nfrom mpi4py import MPI\nfrom test_writeup import descend, four_numbers\n"
        "comm = MPI.COMM_WORLD\nfound = [descend(comm, 2.0, 6.0, 0.5, 0.1, 8), four_numbers(comm).tolist()]\n"
        "everyone = comm.gather(found)\nif comm.rank == 0:\n    print(json.dumps(everyone))\n"
    )
    root = Path(__file__).parent
    done = mpirun(4, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); exec(open({str(script)!r}).read())")
    assert done.returncode == 0, done.stderr
    everyone = json.loads(done.stdout)
    here = [zerosim.run_threads(4, descend, 2.0, 6.0, 0.5, 0.1, 8)[0], zerosim.run_threads(4, four_numbers)[0].tolist()]
    assert everyone == [here] * 4


def test_a_bad_gradient_under_mpi(tmp_path):
    script = tmp_path / "bad.py"
    script.write_text(
        "import numpy as np, zerosim\nfrom mpi4py import MPI\n"
        "p = zerosim.Parameter([1.0, 2.0])\n"
        "optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD([p], lr=1), MPI.COMM_WORLD)\n"
        "optimizer.zero_grad()\n"
        "if optimizer.rank == 1:\n    p.grad = np.zeros(3)\n"
        "try:\n    optimizer.step()\nexcept zerosim.InputError as error:\n    print(error)\n"
    )
    done = mpirun(2, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters[0]: grad is float64 (3,); it must be float64 (2,) as data is") == 2
