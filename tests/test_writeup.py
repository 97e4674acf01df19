"""The worked examples of a popular write-up, and the wrapper for a training loop of one's own."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import mpirun, train_on

import zerosim
from zerosim import formulas

RANKS = (1, 2, 3, 4, 7, 8)
OPTIMIZERS = [zerosim.SGD, zerosim.Momentum, zerosim.Adam, zerosim.AdamW]


def test_gradient_descent_on_a_parabola():
    """J(w) = (y - w x)^2 with x = 2, y = 6: the error shrinks by 1 - 2 lr x^2 in each step, to w = 3."""
    x, y, lr, w = 2.0, 6.0, 0.1, zerosim.Parameter([10.0])
    optimizer = zerosim.SGD([w], lr=lr)
    for step in range(1, 30):
        w.grad = -2 * x * (y - w.data * x)
        optimizer.step()
        assert w.data[0] == pytest.approx(3 + 7 * (1 - 2 * lr * x**2) ** step, rel=1e-5)


def test_gradient_descent_on_a_parabola_is_what_a_linear_model_does():
    """The same through a training: rows of x = 2 and -2 with y = 6 and -6, so that the bias has no gradient at 0."""
    data = zerosim.make_dataset("line", np.array([[2.0], [-2.0]]), np.array([[6.0], [-6.0]]))
    settings = {"hidden": (), "batch_size": 2, "test_fraction": 0.0, "optimizer": "sgd", "precision": "fp64"}
    for N in (1, 2):
        records = train_on(N, data, **settings, lr=0.01, steps=20, shuffle=False)
        losses = np.array(records.runs[0].loss)
        np.testing.assert_allclose(losses[1:] / losses[:-1], (1 - 2 * 0.01 * 4) ** 2, rtol=1e-12)


@pytest.mark.parametrize("N", [1, 2, 4])
def test_one_step(N):
    """x = [1, 1, 0, 0] with gradient [-0.5, 0.5, -0.3, 0.3] and rate 0.5; each rank updates its slice alone."""

    def step(comm):
        x = zerosim.Parameter([1.0, 1.0, 0.0, 0.0])
        optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD([x], lr=0.5), comm)
        x.grad = np.array([-0.5, 0.5, -0.3, 0.3])
        optimizer.step()
        return x.data

    for x in zerosim.run_threads(N, step):
        np.testing.assert_allclose(x, [1.25, 0.75, 0.15, -0.15], rtol=1e-6)


SHAPES = [(10, 7), (7,), (1,), (2, 3, 4)]


def gradients(rank, step):
    random = np.random.default_rng([rank, step])
    return [random.standard_normal(shape) for shape in SHAPES]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("N", RANKS)
def test_the_wrapper_does_what_the_optimizer_does_with_the_mean(N, kind, dtype):
    """To rounding; and holds and sends what stage 1's formulas say, of padded parameters."""

    def start():
        return [zerosim.Parameter(np.ones(shape, dtype)) for shape in SHAPES]

    def train(comm):
        parameters = start()
        optimizer = zerosim.ZeroRedundancyOptimizer(kind(parameters, lr=0.1, weight_decay=0.01), comm)
        for step in range(4):
            for parameter, gradient in zip(parameters, gradients(comm.rank, step), strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad()
            assert all(parameter.grad is None for parameter in parameters)
        return [parameter.data for parameter in parameters], optimizer.held, optimizer.sent

    plain = start()
    optimizer = kind(plain, lr=0.1, weight_decay=0.01)
    for step in range(4):
        everyone = zip(*(gradients(rank, step) for rank in range(N)), strict=True)
        for parameter, each in zip(plain, everyone, strict=True):
            parameter.grad = np.mean(each, axis=0)
        optimizer.step()
    w = np.dtype(dtype).itemsize
    padded = sum(-(-int(np.prod(shape)) // N) * N for shape in SHAPES)
    for found, held, sent in zerosim.run_threads(N, train):
        for one, other in zip(found, plain, strict=True):
            np.testing.assert_allclose(one, other.data, rtol=0, atol={4: 3e-6, 8: 1e-14}[w])
        assert sum(held.values()) == held["optimizer_states"] == w * formulas.MOMENTS[kind.rule] * padded // N
        assert sum(sent.values()) == 4 * formulas.bytes_per_rank(1, padded, N, w)


@pytest.mark.parametrize(("ours", "theirs"), [("SGD", "SGD"), ("Adam", "Adam"), ("AdamW", "AdamW")])
def test_plain_optimizers_are_pytorchs(ours, theirs):
    torch = pytest.importorskip("torch")
    mine = zerosim.Parameter(np.linspace(-1, 1, 12).reshape(3, 4))
    other = torch.tensor(mine.data.copy(), requires_grad=True)
    one, two = getattr(zerosim, ours)([mine], lr=0.1), getattr(torch.optim, theirs)([other], lr=0.1)
    for step in range(5):
        gradient = np.random.default_rng(step).standard_normal((3, 4))
        mine.grad, other.grad = gradient, torch.tensor(gradient)
        one.step()
        two.step()
        np.testing.assert_allclose(mine.data, other.detach().numpy(), rtol=0, atol=1e-7)


def test_bad_use_is_said():
    x = zerosim.Parameter([1.0, 2.0])
    assert x.data.dtype == np.float64
    assert zerosim.Parameter([1, 2]).data.dtype == np.float32
    with pytest.raises(ValueError, match="has no gradient"):
        zerosim.SGD([x]).step()
    x.grad = np.ones(3)
    with pytest.raises(ValueError, match=re.escape("a gradient of shape (3,)")):
        zerosim.ZeroRedundancyOptimizer(zerosim.SGD([x])).step()
    with pytest.raises(ValueError, match="needs parameters"):
        zerosim.Adam([])
    with pytest.raises(ValueError, match="one dtype"):
        zerosim.Adam([x, zerosim.Parameter(np.ones(2, np.float32))])
    x.grad = np.ones(2)
    stepped = zerosim.Adam([x])
    stepped.step()
    with pytest.raises(ValueError, match="before its first step"):
        zerosim.ZeroRedundancyOptimizer(stepped)


def example():
    """The README's example: a linear model from 10 to 10 with cross-entropy and SGD at 0.01 over 10 epochs."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "ZeroRedundancy" in block)
    return code


def test_the_readmes_linear_model(tmp_path):
    """Under mpirun with 1 and 4 ranks: the same losses to what is printed, and they fall."""
    file = tmp_path / "linear.py"
    file.write_text(example())
    printed = {}
    for n in (1, 4):
        done = mpirun(n, file, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        printed[n] = done.stdout.splitlines()
        assert [line[: len(f"Epoch {i}/10, Loss: ")] for i, line in enumerate(printed[n], 1)] == [
            f"Epoch {i}/10, Loss: " for i in range(1, 11)
        ]
    assert printed[1] == printed[4]
    losses = [float(line.rpartition(" ")[2]) for line in printed[1]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
