"""Model parallelism: T x D x P ranks do the mathematics of one rank, and their books equal the formulas."""

import numpy as np
import pytest
from conftest import small_data, train_on

import zerosim

HIDDEN = (12, 8, 9)
SETTINGS = {"hidden": HIDDEN, "batch_size": 22, "steps": 5, "grad_accum": 2, "optimizer": "sgd", "lr": 0.05}
GRIDS = [(T, D, P) for T in (1, 2, 4) for P in (1, 2, 4) for D in (1, 2, 3) if T * D * P <= 16]


def data(task):
    return small_data(task, rows=80, features=6, outputs=5)


def read(path):
    from safetensors.numpy import load_file

    return load_file(path)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """Weights of one rank, by task, precision and clipping."""
    made = {}

    def weights(task, precision, clip_norm):
        key = (task, precision, clip_norm)
        if key not in made:
            file = tmp_path_factory.mktemp("one") / "w.safetensors"
            train_on(1, data(task), **SETTINGS, stages=(0,), precision=precision, clip_norm=clip_norm, save=str(file))
            made[key] = read(file)
        return made[key]

    return weights


def assert_books(records):
    report = zerosim.build_report(records)
    for run in report["runs"]:
        traffic = run["traffic"]
        books = [run["memory"]["at_rest"], traffic["per_step"], *traffic["model_parallel"].values()]
        for book in books:
            assert None not in book["formula_per_rank"]
            assert book["measured"] == book["formula_per_rank"]
        assert sum(traffic["sent"]) == sum(traffic["received"])
    return report


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_does_the_mathematics_of_one_rank(tmp_path, one_rank, grid, task):
    """In float64 to 1e-12, clipped (which needs the norm of the whole gradient), at every stage, with the same bits."""
    T, D, P = grid
    file = tmp_path / "w.safetensors"
    settings = {**SETTINGS, "precision": "fp64", "clip_norm": 0.3, "tensor_parallel": T, "pipeline": P}
    records = train_on(T * D * P, data(task), save=str(file), **settings)
    for name, value in one_rank(task, "fp64", 0.3).items():
        np.testing.assert_allclose(read(file)[name], value, rtol=0, atol=1e-12)
    hashes = [run.weights_sha256 for run in records.runs]
    assert hashes[0] == hashes[1]
    assert hashes[2] == hashes[3]
    assert_books(records)


# activations ---------------------------------------------------------------------------------------------------------

DEEP = (8, 12, 7, 9, 10, 6)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize(("T", "D", "P"), [(1, 1, 1), (1, 3, 1), (2, 2, 1), (3, 1, 1), (1, 2, 2), (2, 1, 3)])
@pytest.mark.parametrize("every", [None, 2, 3, 7])
def test_checkpointing_keeps_every_bit(T, D, P, every, precision):
    """Whatever is kept, cut, put away or made again: same weights, and books that equal the formulas."""
    settings = {
        "hidden": DEEP,
        "batch_size": 25,
        "steps": 2,
        "grad_accum": 2,
        "precision": precision,
        "tensor_parallel": T,
        "pipeline": P,
    }
    plain = train_on(T * D * P, data("classification"), **settings)
    for cpu, partition in {(False, False), (True, False), (False, T > 1), (True, T > 1)}:
        how = {"checkpoint_activations": every, "cpu_checkpointing": cpu, "partition_activations": partition}
        records = train_on(T * D * P, data("classification"), **settings, **how)
        for one, other in zip(plain.runs, records.runs, strict=True):
            assert one.weights_sha256 == other.weights_sha256
            assert one.loss == other.loss
        report = assert_books(records)
        for run in report["runs"]:
            for what, book in run["memory"]["activations"].items():
                assert book["measured"] == book["formula_per_rank"], (what, how)
