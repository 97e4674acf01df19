"""Reading the reader's own data, and cutting it so that every N sees the same batches."""

import numpy as np
import pytest
from conftest import train_on
from test_cli import idx_folder

import zerosim
from zerosim.data import batches, load, share, split


def test_digits():
    data = load("digits")
    assert data.x.shape == (1797, 64)
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.classes == list(range(10))
    assert np.bincount(data.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.y[:10].tolist() == list(range(10))


def test_csv_of_classes_words_and_numbers(tmp_path):
    for targets, classes, y in (
        (["-2", "10", "9"], [-2, 9, 10], [0, 2, 1]),
        (["cat", "bee", "cat"], ["bee", "cat"], [1, 0, 1]),
        (["0.5", "1", "-2e1"], None, [[0.5], [1], [-20]]),
        (['"a, b"', '"say ""so"""', "c"], ["a, b", "c", 'say "so"'], [0, 2, 1]),
    ):
        file = tmp_path / "data.csv"
        file.write_text("one,two,target\n" + "".join(f"{i},{i / 2},{t}\n" for i, t in enumerate(targets)))
        data = load(str(file))
        np.testing.assert_array_equal(data.x, [[0, 0], [1, 0.5], [2, 1]])
        assert data.classes == classes
        np.testing.assert_array_equal(data.y, y)


def test_csv_with_numbered_columns_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "data.csv"
    file.write_bytes(b"\xef\xbb\xbf0,1,2\r\n5,6,0\r\n\r\n7,8,1\r\n")
    np.testing.assert_array_equal(load(str(file)).x, [[5, 6], [7, 8]])


def test_npz_of_images_strings_and_several_outputs(npz):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    data = load(str(npz(x=images, y=np.array(["b", "a", "b", "c"]))))
    np.testing.assert_array_equal(data.x, images.reshape(4, 6))
    assert (data.classes, data.y.tolist()) == (["a", "b", "c"], [1, 0, 1, 2])
    data = load(str(npz(x=np.arange(3), y=np.ones((3, 2)))))
    assert (data.classes, data.outputs, data.x.shape) == (None, 2, (3, 1))
    assert load(str(npz(x=images, y=np.array([True, False, True, True])))).classes == [False, True]
    assert load(str(npz(x=images, y=np.array([[3], [4], [3], [3]])))).classes == [3, 4]


@pytest.mark.parametrize("gz", [False, True])
def test_idx_folder(tmp_path, gz):
    data = load(str(idx_folder(tmp_path, gz=gz)))
    assert data.x.shape == (30, 12)
    assert data.x.dtype == np.uint8
    assert (data.classes, data.own_test) == ([0, 1, 2], 0)
    assert len(split(data, None, 0)[1]) == 6


def test_idx_folder_with_rows_for_testing(tmp_path):
    idx_folder(tmp_path)
    idx_folder(tmp_path, rows=9, prefix="t10k")
    data = load(str(tmp_path))
    train, test = split(data, None, 0)
    assert (train.tolist(), test.tolist()) == (list(range(30)), list(range(30, 39)))
    assert len(split(data, 0.0, 0)[0]) == 39
    assert len(split(data, 0.5, 0)[1]) == 20
    records = train_on(2, data, test_fraction=None, hidden=(), precision="fp32", lr=1e-4)
    assert (records.data["train_rows"], records.data["test_rows"]) == (30, 9)
    assert records.config.test_fraction == pytest.approx(9 / 39)


def test_no_test_rows_and_the_files_order(npz):
    data = load(str(npz(x=np.arange(40.0), y=np.arange(40) % 2)))
    train, test = split(data, 0.0, 5)
    assert (train.tolist(), test.size) == (list(range(40)), 0)
    assert batches(train, 6, 1, 5, shuffle=False).tolist() == np.arange(36).reshape(6, 6).tolist()
    records = train_on(2, data, test_fraction=0.0, shuffle=False)
    assert records.runs[0].epochs[-1]["test_accuracy"] is None
    assert "-" in zerosim.format_report(zerosim.build_report(records))


def test_batches_are_the_same_for_every_N():
    rows = np.arange(100, 200)
    first = batches(rows, 30, 1, 7, shuffle=True)
    assert first.shape == (3, 30)
    assert len(set(first.ravel())) == 90
    assert (first != batches(rows, 30, 2, 7, shuffle=True)).any()
    for N in (1, 2, 4, 7):
        shares = [share(first[0], rank, N) for rank in range(N)]
        assert sorted(np.concatenate(shares)) == sorted(first[0])
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert shares[0][0] == first[0][0]


def test_evaluation_is_that_of_the_saved_weights(tmp_path):
    """Accuracy and loss of the last epoch, once more from the file of weights with three lines of NumPy."""
    from safetensors.numpy import load_file

    file = tmp_path / "w.safetensors"
    data = load("digits")
    records = train_on(
        3, data, hidden=(20,), precision="fp32", batch_size=50, steps=None, epochs=2, test_fraction=0.3, save=str(file)
    )
    w = load_file(file)
    logits = (
        np.maximum(data.x @ w["layers.0.weight"].T + w["layers.0.bias"], 0) @ w["layers.1.weight"].T
        + w["layers.1.bias"]
    )
    for rows, part in zip(split(data, 0.3, 0), ("train", "test"), strict=True):
        z, y = logits[rows].astype(float), data.y[rows]
        losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
        epoch = records.runs[-1].epochs[-1]
        assert epoch[f"{part}_accuracy"] == np.mean(z.argmax(axis=1) == y)
        assert epoch[f"{part}_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert epoch["loss"] == pytest.approx(np.mean(records.runs[-1].loss[-25:]))
    assert epoch["steps"] == 1258 // 50


def test_regression_learns(npz):
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 3))
    data = load(str(npz(x=x, y=np.sin(x[:, 0]) + x[:, 1])))
    records = train_on(2, data, hidden=(32,), precision="bf16", stages=(3,), steps=None, epochs=40, lr=0.01)
    last = records.runs[-1].epochs[-1]
    assert last["test_loss"] < 0.05 * np.var(data.y)
    assert last["test_accuracy"] is None
    assert "test\n" not in zerosim.format_report(zerosim.build_report(records))
