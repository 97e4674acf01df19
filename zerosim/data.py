"""Real data: the built-in digits, or the reader's own .npz, .csv or IDX files.

Every rank sees the same rows in the same order and trains on every N-th of each batch, so that N ranks and one rank
see the same global batch.
"""

import csv
import gzip
import hashlib
import math
import struct
import tokenize
import zipfile
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from zerosim.errors import InputError
from zerosim.outside import check_file
from zerosim.room import check_room
from zerosim.words import counted

DIGITS = Path(__file__).with_name("datasets") / "digits.npz"


@dataclass
class Dataset:
    """Rows to train and test on.

    x is (rows, features) of floats. y is (rows,) of class numbers if `classes` lists the labels they stand for, in
    sorted order, and else (rows, outputs) of floats. `own_test` is the number of rows at the end that the files
    themselves set apart for testing.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: list[Any] | None
    own_test: int = 0

    @property
    def outputs(self) -> int:
        """Width of the model's last layer."""
        return len(self.classes) if self.classes is not None else self.y.shape[1]

    @cached_property
    def description(self) -> dict[str, Any]:
        """Return what tells these rows from others: their number, and SHA-256 of x and y."""
        digest = hashlib.sha256()
        for array in (self.x, self.y):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return {"rows": len(self.x), "sha256": digest.hexdigest()}


def load(name: str) -> Dataset:
    """Load `digits`, a .npz or .csv file, or a folder of IDX files. Raises InputError, one line of what is wrong."""
    if name == "digits":
        digits = _npz(DIGITS)
        return make_dataset("digits", digits[0] / np.float32(16), digits[1])
    path = Path(name)
    try:
        if path.is_dir():
            return _idx_folder(name, path)
        if not path.exists():
            raise InputError(
                f"data {name}: there is no such file or folder; give digits, a .npz, a .csv or a folder of IDX files"
            )
        readers = {".npz": _npz, ".csv": _csv}
        if path.suffix.lower() not in readers:
            raise InputError(f"data {name}: the name must end in .npz or .csv, or be a folder of IDX files")
        check_file(path, f"data {name}")
        return make_dataset(name, *readers[path.suffix.lower()](path))
    except OSError as error:
        raise InputError(f"data {name}: cannot be read ({error.strerror or error})") from None


def size(name: str) -> int:
    """Return the bytes of the file or of the folder's files; 0 if there are none."""
    path = Path(name)
    try:
        return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    except (OSError, ValueError):
        return 0


def make_dataset(name: str, x: Any, y: Any, own_test: int = 0) -> Dataset:
    """Check arrays and return them as a `Dataset`.

    x (rows, ...) numbers, flattened to (rows, features). y of integers, booleans or strings (rows,): classes; of floats
    (rows,) or (rows, outputs): regression. Raises InputError.
    """
    x, y = np.asarray(x), np.asarray(y)
    what = f"data {name}"
    if x.dtype.kind not in "fiub" or not x.ndim:
        raise InputError(f"{what}: x must hold rows of real numbers, not {x.dtype} of shape {x.shape}")
    if x.ndim == 1:
        x = x[:, None]
    if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind != "f":
        y = y[:, 0]
    if y.dtype.kind not in "fiubUST" or y.ndim not in (1, 2):
        raise InputError(f"{what}: y must hold a class or a number for each row, not {y.dtype} of shape {y.shape}")
    if len(x) != len(y):
        raise InputError(f"{what}: x has {len(x)} rows and y has {len(y)}; they must have as many")
    if not x.size or not y.size:
        raise InputError(f"{what}: it is empty (x {x.shape}, y {y.shape})")
    x = np.ascontiguousarray(x.reshape(len(x), -1))
    _finite(f"{what}: x", x)
    if y.dtype.kind == "f":
        _finite(f"{what}: y", y)
        return Dataset(name, x, y.reshape(len(y), -1), None, own_test)
    if y.ndim == 2:
        raise InputError(f"{what}: y has shape {y.shape}; give one class number per row, or floats for regression")
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"{what}: fewer than two classes in y (only {classes[0]}); floats would mean regression")
    labels = [c.decode("utf-8", "replace") if isinstance(c, bytes) else c for c in classes.tolist()]
    return Dataset(name, x, numbers.reshape(-1).astype(np.int64), labels, own_test)


def convert(data: Dataset, dtype: np.dtype, compute: np.dtype) -> Dataset:
    """Return the data with x in the storage type and targets in the computing type; InputError if a value overflows."""
    with np.errstate(over="ignore"):
        x = data.x.astype(dtype)
        y = data.y if data.classes is not None else data.y.astype(compute)
    for array, source, what in ((x, data.x, "x"), (y, data.y, "y")):
        if not (finite := np.isfinite(array)).all():
            row, column = np.argwhere(~finite)[0]
            raise InputError(
                f"data {data.name}: {what} has {source[row, column]:g} in row {row + 1}, beyond the range of "
                f"{array.dtype}: scale the data, or take another --precision"
            )
    return Dataset(data.name, x, y, data.classes, data.own_test)


def split(data: Dataset, fraction: float | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers to train on and to test on, each in the file's order.

    `fraction` of the rows, drawn with the seed, is for testing; None: what the files set apart themselves, else 0.2.
    """
    rows = len(data.x)
    if fraction is None and data.own_test:
        return np.arange(rows - data.own_test), np.arange(rows - data.own_test, rows)
    count = round(rows * (0.2 if fraction is None else fraction))
    if fraction != 0:
        count = min(max(count, 1), rows - 1)
    chosen = np.zeros(rows, bool)
    chosen[np.random.default_rng([seed, 1]).permutation(rows)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def batches(rows: np.ndarray, size: int, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
    """Return the row numbers of an epoch's global batches, shape (batches, size); a last partial batch is dropped."""
    if shuffle:
        rows = np.random.default_rng([seed, 2, epoch]).permutation(rows)
    count = len(rows) // size
    return rows[: count * size].reshape(count, size)


def share(batch: np.ndarray, rank: int, N: int) -> np.ndarray:
    """Rank r's rows of a global batch: r, r + N, r + 2 N, …"""
    return batch[rank::N]


# readers -------------------------------------------------------------------------------------------------------------


def _finite(what: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        row = int(np.argwhere(~finite)[0][0])
        bad = array.reshape(len(array), -1)[row]
        raise InputError(f"{what} has a value that is not finite ({bad[~np.isfinite(bad)][0]}) in row {row + 1}")


_RATIO = 1032
"""The most by which deflate, the compression of .npz and .gz, can make bytes fewer (258 of them in 2 bits)."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

_DAMAGED = (ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, zlib.error, struct.error)

_UNREADABLE_HEADER = (SyntaxError, tokenize.TokenError)
"""What NumPy lets through that reads the header of an array as Python."""


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            return _member(path, archive, "x"), _member(path, archive, "y")
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        with open(path, "rb") as file:
            begin = file.read(6)
        if begin == b"\x93NUMPY":
            raise InputError(f"data {path}: this is a single array, not an .npz with arrays x and y") from None
        if begin[:2] != b"PK":
            raise InputError(f"data {path}: this is no .npz file; save arrays x and y with numpy.savez") from None
        raise InputError(f"data {path}: damaged or cut off ({_one_line(error)})") from None
    except MemoryError:
        raise InputError(f"data {path}: it needs more memory than there is") from None
    except (*_DAMAGED, *_UNREADABLE_HEADER) as error:
        raise InputError(f"data {path}: damaged or cut off ({_one_line(error)})") from None


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Read one array when its header, its length in the archive and the memory there is are found to fit."""
    name = f"{key}.npy"
    if name not in archive.namelist():
        names = ", ".join(other.removesuffix(".npy") for other in archive.namelist())
        raise InputError(f"data {path}: no array {key!r} in it, only {names or 'nothing'}")
    entry = archive.getinfo(name)
    if entry.file_size > _RATIO * entry.compress_size or entry.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise InputError(
            f"data {path}: {name} cannot be {entry.file_size:,} bytes compressed into {entry.compress_size:,} as "
            "numpy.savez_compressed does"
        )
    check_room(f"data {path}: {name}", entry.file_size, 1)
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{name} has version {version}")
        shape, _, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise InputError(
                f"data {path}: it holds pickled objects, which are never loaded; save plain arrays with numpy.savez"
            )
        expected, got = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
        if expected != got or min(shape, default=0) < 0:
            raise InputError(f"data {path}: {name} is {shape} of {dtype}, {expected} bytes; it has {got}")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A header, then rows of numbers with the target last: integers or words are classes, other numbers regression."""
    features: list[np.ndarray] = []
    targets: list[str] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if not header:
                raise InputError(f"data {path}: line 1 must be a header with the names of the columns")
            if len(header) < 2:
                raise InputError(
                    f"data {path}: one column only; features first and the target last are needed, split by commas"
                )
            if _looks_like_data(header):
                raise InputError(
                    f"data {path}: line 1 is all numbers; it must be a header with the names of the columns"
                )
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"data {path}: line {reader.line_num} has {counted(len(row), 'column')}, "
                        f"the header has {len(header)}"
                    )
                try:
                    features.append(np.array(row[:-1], np.float64))
                except ValueError:
                    column, cell = next((c, v) for c, v in zip(header, row, strict=True) if _number(v) is None)
                    raise InputError(
                        f"data {path}: line {reader.line_num}, column {column!r}: {cell!r} is not a number"
                    ) from None
                if not np.isfinite(features[-1]).all():
                    raise InputError(f"data {path}: line {reader.line_num} has a value that is not finite")
                targets.append(row[-1].strip())
                if not targets[-1]:
                    raise InputError(f"data {path}: line {reader.line_num} has no target in its last column")
    except csv.Error as error:
        raise InputError(f"data {path}: line {reader.line_num} is not CSV ({_one_line(error)})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"data {path}: not a CSV text in UTF-8 ({_one_line(error)})") from None
    if not features:
        raise InputError(f"data {path}: there are no rows below the header")
    return np.array(features), _targets(path, targets)


def _targets(path: Path, cells: list[str]) -> np.ndarray:
    try:
        return np.array([int(cell) for cell in cells], np.int64)
    except OverflowError:
        raise InputError(f"data {path}: a class number in the last column needs more than 64 bits") from None
    except ValueError:
        pass  # not all are whole numbers
    numbers = [_number(cell) for cell in cells]
    if any(number is None for number in numbers):
        return np.array(cells, np.dtypes.StringDType())  # each as long as it is, not all as the longest
    for line, number in enumerate(numbers, 1):
        if not math.isfinite(number):  # type: ignore[arg-type]
            raise InputError(f"data {path}: the target of row {line} below the header is not finite ({number})")
    return np.array(numbers, np.float64)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _looks_like_data(header: list[str]) -> bool:
    """All numbers, and not just the count of the columns that some programs write."""
    numbers = [_number(cell) for cell in header]
    return None not in numbers and numbers not in ([*range(len(header))], [*range(1, len(header) + 1)])


_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


_MOST_DIMENSIONS = 32


def _idx(path: Path) -> np.ndarray:
    """Read one IDX file (Y. LeCun's MNIST page): 0 0 type ndim, big-endian sizes, then the numbers."""
    nbytes = check_file(path, f"data {path}")
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else nullcontext(raw) as file:
                return _idx_numbers(path, file, nbytes, packed)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"data {path}: damaged or cut off ({_one_line(error)})") from None
    except MemoryError:
        raise InputError(f"data {path}: it needs more memory than there is") from None


def _idx_numbers(path: Path, file: gzip.GzipFile | IO[bytes], nbytes: int, packed: bool) -> np.ndarray:
    """Read what an open file of `nbytes` on the disk holds; no more than its header says, if it can say so."""
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not 1 <= head[3] <= _MOST_DIMENSIONS:
        raise InputError(f"data {path}: this is not an IDX file")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise InputError(f"data {path}: this is not an IDX file")
    shape, dtype = struct.unpack(f">{head[3]}I", sizes), np.dtype(_IDX_TYPES[head[2]])
    expected, before = math.prod(shape) * dtype.itemsize, len(head) + len(sizes)
    if expected > (_RATIO * nbytes if packed else nbytes - before):
        has = f"{nbytes} bytes cannot have them compressed" if packed else f"it has {nbytes - before}"
        raise InputError(f"data {path}: its header {shape} needs {expected} bytes of numbers, {has}")
    check_room(f"data {path}", expected, 1)
    numbers = file.read(expected + 1)
    if len(numbers) != expected:
        has = "more" if len(numbers) > expected else f"{len(numbers)}"
        raise InputError(f"data {path}: its header {shape} needs {expected} bytes of numbers, it has {has}")
    return np.frombuffer(numbers, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _idx_folder(name: str, path: Path) -> Dataset:
    """Pair images with labels by what stands before these words; 't10k' and 'test' pairs are for testing."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        for kind, found in (("images", images), ("labels", labels)):
            before, here, after = file.name.partition(kind)
            if here and "idx" in after:
                if before in found:
                    raise InputError(f"data {name}: both {found[before].name} and {file.name}; keep one of them")
                found[before] = file
    if not images:
        raise InputError(f"data {name}: no IDX files in this folder, like train-images-idx3-ubyte and its labels")
    for before in sorted(images.keys() ^ labels.keys()):
        single = images.get(before) or labels[before]
        raise InputError(f"data {name}: {single.name} has no partner; images and labels come in pairs")
    order = sorted(images, key=lambda before: (_for_testing(before), before))
    pairs = [(_idx(images[before]), _idx(labels[before])) for before in order]
    for before, (x, y) in zip(order, pairs, strict=True):
        if len(x) != len(y):
            raise InputError(
                f"data {name}: {images[before].name} has {len(x)} rows, {labels[before].name} has {len(y)}"
            )
        for file, array, first in ((images[before], x, pairs[0][0]), (labels[before], y, pairs[0][1])):
            if (shape := array.shape[1:]) != first.shape[1:]:
                raise InputError(f"data {name}: {file.name} has rows of shape {shape}, not {first.shape[1:]}")
    testing = sum(len(x) for before, (x, _) in zip(order, pairs, strict=True) if _for_testing(before))
    x, y = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return make_dataset(name, x, y, testing if testing < len(x) else 0)


def _for_testing(before: str) -> bool:
    return before.lower().startswith(("t10k", "test"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
