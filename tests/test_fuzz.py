"""Every reader of files from outside, given files that are damaged, absurd, endless or no files at all.

A reader returns something that is as it should be, or raises InputError with one line; nothing else, and soon, and
without memory that the file does not justify. The random numbers are the same in every run.
"""

import copy
import gzip
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from conftest import small_data, train_on
from test_cli import idx_folder

import zerosim
from zerosim import cluster, data, deepspeed, models, published
from zerosim.checkpoint import open_checkpoint, resumed
from zerosim.checkpoint.manifest import seal
from zerosim.collectives import custom
from zerosim.comparison import compare
from zerosim.config import Config, read_config_file
from zerosim.errors import InputError
from zerosim.weightfile import open_weights

LONGEST = 1500
"""Characters that a complaint may have, with the name of the file in it."""


def refusal(function, *arguments):
    """Return the complaint, None if there is none; anything but InputError fails the test."""
    try:
        function(*arguments)
    except InputError as error:
        said = str(error)
        assert said.strip()
        assert "\n" not in said.strip()
        assert len(said) <= LONGEST, said
        return said
    return None


# readers, and a valid file for each ----------------------------------------------------------------------------------

OWN = {
    "stages": [0, 3], "hidden": [4, 3], "optimizer": "adamw", "lr": 0.01, "precision": "bf16", "batch_size": 12,
    "clip_norm": 1.0, "steps": 2, "bucket": 7, "slices": [2, 1], "seed": 3, "shuffle": False, "cluster": "dgx-2",
    "straggler": [1, 2.5], "collective": "halving", "data": "digits", "prune_groups": 0.5, "prune_by": "layer",
    "test_fraction": 0.3, "witness": ["os"], "pipeline_layers": [1, 2], "checkpoint_activations": 2,
}  # fmt: skip
DEEPSPEED = {
    "train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4,
    "gradient_clipping": 1.0, "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16},
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}},
    "zero_optimization": {
        "stage": 3, "reduce_bucket_size": 5e8, "offload_optimizer": {"device": "cpu"}, "overlap_comm": True,
    },
}  # fmt: skip
CLUSTER = {k: v for k, v in cluster.PRESETS["dgx-2"].asdict().items() if k not in ("name", "source")}
MODEL = {
    "model_type": "mixtral", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1000, "num_local_experts": 4,
    "num_experts_per_tok": 2, "tie_word_embeddings": False,
}  # fmt: skip
ROWS = {
    "rows": [
        {"id": "a", "source": "s", "formula": "states_per_rank", "inputs": {"stage": 1, "Psi": 7.5e9, "N": 64},
         "published": 31.4, "unit": "GB", "rounding": "down"},
        {"id": "b", "formula": "model_states.0", "inputs": {"stage": 2, "Psi": "d", "N": 4}, "published": "2 * d",
         "at": {"d": [1, 8, 64]}},
        {"id": "c", "formula": "measurement", "published": 3, "decimals": 1},
    ]
}  # fmt: skip


def read_config(path):
    return Config(**read_config_file(path, 2))


def check_rows(path):
    return published.check(published.load(path))


JSON = {
    "config": (read_config, OWN),
    "deepspeed": (deepspeed.read, DEEPSPEED),
    "train with deepspeed": (read_config, DEEPSPEED),
    "cluster": (cluster.find, CLUSTER),
    "model": (models.find, MODEL),
    "rows": (check_rows, ROWS),
}


def written(folder):
    """The valid files of the readers that take no JSON: {name: (reader, path)}."""
    folder.mkdir()
    (folder / "a.csv").write_text('one,"two, 2",t\n' + "".join(f"{i},{i / 3!r},{'abc'[i % 3]}\n" for i in range(20)))
    np.savez(folder / "a.npz", x=np.arange(60.0).reshape(20, 3), y=np.arange(20) % 3)
    np.savez_compressed(folder / "z.npz", x=np.arange(60, dtype=np.uint8).reshape(20, 3), y=np.array(["u", "v"] * 10))
    idx_folder(folder / "idx")
    idx_folder(folder / "gz", gz=True)
    train_on(1, hidden=(4,), steps=1, save=str(folder / "w.safetensors"))
    return {
        "csv": (data.load, folder / "a.csv"),
        "npz": (data.load, folder / "a.npz"),
        "compressed npz": (data.load, folder / "z.npz"),
        "idx": (load_beside, next((folder / "idx").glob("*images*"))),
        "idx labels": (load_beside, next((folder / "idx").glob("*labels*"))),
        "idx.gz": (load_beside, next((folder / "gz").glob("*images*"))),
        "init": (read_weights, folder / "w.safetensors"),
    }


def load_beside(path):
    return data.load(os.path.dirname(path))


def read_weights(path):
    with open_weights(path, [5, 4, 3]) as file:
        return [file.get_slice(name)[:] for name in file.keys()]  # noqa: SIM118


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return written(tmp_path_factory.mktemp("fuzz") / "valid")


# bytes ---------------------------------------------------------------------------------------------------------------

SCRAPS = (
    b"", b"\0" * 8, b"\xff" * 8, b"\xff\xfe\xed", b"nan", b"1e999", b"-1", b"9" * 5000, b'"', b"{", b"[" * 2000, b",",
    b"\n", b"\r", b"'", b"1_0", b"\xc3\x28", b"\xed\xa0\x80", b"inf", b"\x1f\x8b", b"PK\x03\x04", b"\x93NUMPY", 
    b"(" * 300,
)  # fmt: skip


def mutated(chance, raw):
    """Return bytes with one to three changes."""
    raw = bytearray(raw)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        at, upto = sorted(chance.randrange(len(raw) + 1) for _ in range(2))
        upto = min(upto, at + chance.choice([1, 4, 16, len(raw)]))
        kind = chance.randrange(6)
        if kind == 0 and raw:
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del raw[at:]
        elif kind == 2:
            raw[at:at] = chance.choice(SCRAPS)
        elif kind == 3:
            raw[at:upto] = chance.choice(SCRAPS)
        elif kind == 4:
            raw[at:upto] = raw[at:upto] * 2
        else:
            other = chance.randrange(len(raw) + 1)
            raw[at:upto], raw[other : other + 8] = raw[other : other + 8], raw[at:upto]
    return bytes(raw)


@pytest.mark.parametrize("name", ["csv", "npz", "compressed npz", "idx", "idx labels", "idx.gz", "init"])
def test_damaged_bytes(valid, name):
    reader, path = valid[name]
    chance, whole = random.Random(name), path.read_bytes()
    assert refusal(reader, str(path)) is None
    refused = 0
    try:
        for _ in range(TIMES):
            path.write_bytes(mutated(chance, whole))
            refused += refusal(reader, str(path)) is not None
    finally:
        path.write_bytes(whole)
    assert refused > TIMES // 10


TIMES = 150


# JSON ----------------------------------------------------------------------------------------------------------------

WEIRD = (
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e-320, 1e308, 10**18, 2**63, 2**64, 10**308, 10**400, -(10**4000), "",
    "x", "auto", "1", "\0", "\ud800", "é" * 300, "a\nb", "../../x", [], {}, [[]], [1, 1, 1], {"a": 1}, [None],
    float("nan"), float("inf"), [10**400], "digits", "ring", "9" * 5000, "1:2", ["x", {}], 3, 7,
)  # fmt: skip


def changed(chance, value):
    """Return JSON with one to three of its nodes replaced, removed, exchanged or added."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice([1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return chance.choice(WEIRD)
        holder, key = chance.choice(places)
        kind = chance.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, there = chance.choice(places)
            holder[key] = copy.deepcopy(other.get(there) if isinstance(other, dict) else other[there])
        elif kind == 2 and isinstance(holder, dict):
            holder[chance.choice(["x", "", "stage", "a.b", "\0", "fp16", "lr"])] = chance.choice(WEIRD)
        else:
            holder[key] = copy.deepcopy(chance.choice(WEIRD))
    return value


def _places(value):
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@pytest.mark.parametrize("name", JSON)
def test_changed_json(tmp_path, name):
    reader, value = JSON[name]
    chance, path = random.Random(name), tmp_path / "a.json"
    path.write_text(json.dumps(value))
    whole = path.read_bytes()
    for i in range(3 * TIMES):
        if i % 3:
            path.write_text(json.dumps(changed(chance, value)))
        else:
            path.write_bytes(mutated(chance, whole))
        refusal(reader, str(path))


ABSURD = {
    "empty": b"",
    "nothing": b"null",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a million brackets": b"[" * 10**6,
    "a million objects": b'{"a":' * 10**6,
    "a gigantic integer": b'{"lr": ' + b"9" * 10**6 + b"}",
    "a gigantic fraction": b'{"lr": 0.' + b"9" * 10**6 + b"}",
    "a gigantic exponent": b'{"lr": 1e' + b"9" * 10**6 + b"}",
    "a gigantic key": b'{"' + b"k" * 10**6 + b'": 1}',
    "a gigantic value": b'{"optimizer": "' + b"v" * 10**6 + b'"}',
    "many keys": json.dumps({f"k{i}": i for i in range(10**5)}).encode(),
    "NaN": b'{"lr": NaN, "model_type": NaN, "rows": NaN}',
    "a list": b"[1]",
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_json(tmp_path, what):
    path = tmp_path / "a.json"
    path.write_bytes(ABSURD[what])
    for reader, _ in JSON.values():
        if not (what.startswith("a gigantic") or what in ("NaN", "many keys")):
            assert refusal(reader, str(path))
        refusal(reader, str(path))


def test_values_of_any_length_make_no_long_line(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"optimizer": "v\x1b\n" * 10**5}))
    said = refusal(read_config, str(tmp_path / "a.json"))
    assert said.startswith("optimizer: 'v")
    assert "choose from sgd" in said
    assert "\x1b" not in str(InputError("\x1b[2J"))


def test_whole_numbers_that_nothing_can_count(tmp_path):
    """Beyond what a float, 64 bits or Python's own text of a number can be."""
    for name in ("lr", "clip_norm", "seed", "bucket", "batch_size", "hidden", "slices", "straggler", "prune_groups"):
        for huge in (10**400, 10**4000, 2**63):
            value = [huge, huge] if name in ("hidden", "slices") else [1, huge] if name == "straggler" else huge
            (tmp_path / "a.json").write_text(json.dumps({name: value, "data": "digits"}))
            said = refusal(read_config, str(tmp_path / "a.json"))
            assert name in (said or name)
            assert said or (huge == 2**63 and name in ("lr", "clip_norm", "straggler"))
    (tmp_path / "a.json").write_text(json.dumps({**CLUSTER, "alpha_inside": 10**400}))
    assert "alpha_inside" in refusal(cluster.find, str(tmp_path / "a.json"))
    for inside in (3, None, [], "x"):
        (tmp_path / "a.json").write_text(json.dumps({"cluster": inside}))
        assert "cluster" in refusal(cluster.find, str(tmp_path / "a.json"))


def test_what_is_no_report(tmp_path):
    report = zerosim.build_report(train_on(1, stages=(0,), hidden=(3,), steps=1))
    chance, path = random.Random(1), tmp_path / "report.json"
    for _ in range(TIMES):
        path.write_text(json.dumps(changed(chance, {k: v for k, v in report.items() if k != "config"})))
        refusal(lambda: compare(a=path, b=report))
    assert refusal(lambda: compare(a={"runs": 3}))
    assert compare(a=report)


# what is no file -----------------------------------------------------------------------------------------------------

NAMES = {
    ".csv": data.load, ".npz": data.load, "-images-idx": load_beside, ".safetensors": read_weights,
    ".json": read_config, "2.json": deepspeed.read, "3.json": cluster.find, "4.json": models.from_config,
    "5.json": check_rows, "6.json": lambda path: compare(a=path),
}  # fmt: skip


@pytest.mark.parametrize("ending", NAMES)
def test_pipes_devices_folders_and_empty_files(tmp_path, ending):
    """A pipe that nobody writes into would be waited for, and /dev/zero has no end."""

    def pipe(path):
        os.mkfifo(path)

    def device(path):
        path.symlink_to("/dev/zero")

    def loop(path):
        path.symlink_to(path)

    def secret(path):
        path.touch(mode=0)

    kinds = (pipe, device, loop, secret, type(tmp_path).mkdir, type(tmp_path).touch, lambda path: None)
    for number, make in enumerate(kinds):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"a{ending}"
        make(path)
        if ending.endswith("idx"):
            (folder / "a-labels-idx").write_bytes(b"")
        assert refusal(NAMES[ending], str(path)), make


@pytest.mark.parametrize("name", ["\0", "a\0.csv", "\ud800.npz", "x" * 5000 + ".json", "", "\n", "a" * 300 + ".csv"])
def test_names_that_no_file_can_have(name):
    for reader in (*NAMES.values(), data.load, models.find, open_checkpoint, resumed):
        if not (name == "" and reader is load_beside):
            assert refusal(reader, name)
    data.size(name)
    with pytest.raises(ValueError, match=r"cannot be read|no such file|null|surrogates"):
        custom.load(f"{name}.py")


def test_an_algorithm_is_read_from_a_file_alone(tmp_path):
    os.mkfifo(tmp_path / "a.py")
    with pytest.raises(ValueError, match="pipe"):
        custom.load(str(tmp_path / "a.py"))


# claims and bombs ----------------------------------------------------------------------------------------------------


def idx_bytes(shape, numbers=b"", kind=8):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + numbers


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("shape", "numbers", "says"),
    [
        ((2**32 - 1, 2**8), b"", "1099511627520 bytes"),  # 2^40 rows' worth
        ((2**32 - 1,) * 9, b"x", "bytes of numbers"),
        ((1,) * 200, b"\1", "not an IDX file"),
        ((10,), b"\1" * 9, "it has 9"),
        ((10,), b"\1" * 11, "it has"),
        ((0, 0), b"", "empty"),
        ((2**32 - 1, 0), b"", "has 4294967295 rows"),
    ],
)
def test_idx_headers_that_lie(tmp_path, shape, numbers, says, pack):
    folder = idx_folder(tmp_path / "idx")
    path = next(folder.glob("*images*"))
    path.write_bytes(pack(idx_bytes(shape, numbers)))
    if says == "empty":
        next(folder.glob("*labels*")).write_bytes(idx_bytes((0,)))
    assert says in refusal(data.load, str(folder)) or says == "it has 9"


def test_idx_pairs_that_do_not_fit(tmp_path):
    idx_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes((3, 3, 4), b"\1" * 36))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes((3, 1), b"\1" * 3))
    assert "t10k-labels-idx1-ubyte has rows of shape (1,), not ()" in refusal(data.load, str(tmp_path))


def archive(path, x, size=None, method=zipfile.ZIP_DEFLATED, packed=False):
    """Write an .npz whose x.npy is these bytes, and say that they are `size`, or are packed already."""
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x.npy", x)
        file.writestr("y.npy", buffer.getvalue())
        if size is not None:
            file.getinfo("x.npy").file_size = size
        if packed:
            file.getinfo("x.npy").compress_type = zipfile.ZIP_DEFLATED
    return str(path)


def npy(claim, numbers=b"", dtype="<f8"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {claim}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + numbers


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (npy((2**40, 1)), {}, "8796093022208 bytes; it has 0"),
        (npy((3, -1)), {}, "bytes; it has 0"),
        (npy((-1, -3), b"\0" * 24), {}, "it has 24"),
        (npy((3,), b"\0" * 24, "|O"), {}, "pickled"),
        (npy((3,), b"\0" * 24), {"size": 2**45}, "cannot be 35,184,372,088,832 bytes"),
        (npy((3,), b"\0" * 24), {"method": zipfile.ZIP_LZMA}, "as numpy.savez"),
        (npy("(" * 3000, b""), {}, "damaged"),
        (npy("-" * 5000 + "1"), {}, "damaged"),
        (b"\x93NUMPY\3\0" + b"\0" * 40, {}, "version"),
        (b"hello", {}, "damaged"),
        (b"", {}, "damaged"),
    ],
)
def test_npz_members_that_lie(tmp_path, content, options, says):
    assert says in refusal(data.load, archive(tmp_path / "a.npz", content, **options))


def test_an_encrypted_member(tmp_path):
    path = tmp_path / "a.npz"
    archive(path, npy((3,), b"\0" * 24))
    raw = bytearray(path.read_bytes())
    for begin, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        raw[raw.index(begin) + flags] |= 1
    path.write_bytes(raw)
    assert "encrypted" in refusal(data.load, str(path))


def limited(code, cwd, memory):
    """Run Python with so much address space beyond what it begins with; return the lines that it prints."""
    head = (
        "import resource\nfrom zerosim import data, weightfile, jsonfile\n"
        "from zerosim.errors import InputError\nimport safetensors\n"
        "most = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + "
        f"{memory}\nresource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "def try_(f, *a):\n    try: f(*a); print('fine')\n    except InputError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", head + code], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux says how much memory a process has")
def test_bombs(tmp_path):
    """Files of four megabytes that are four gigabytes unpacked, or a hole of a terabyte, with 200 MB of memory."""
    mega, many = bytes(1 << 20), 4 << 10
    piece = gzip.compress(mega, 1)
    for name, shape in (("honest", (many, 1 << 20)), ("liar", (3,))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a-labels-idx1").write_bytes(idx_bytes((3,), b"\0\1\2"))
        (tmp_path / name / "a-images-idx1").write_bytes(gzip.compress(idx_bytes(shape)) + piece * many)
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    begin = deflate.compress(npy((3, 1 << 30), b"", "|u1")) + deflate.flush(zlib.Z_FULL_FLUSH)
    piece = deflate.compress(mega) + deflate.flush(zlib.Z_FULL_FLUSH)
    archive(tmp_path / "a.npz", begin + piece * (3 << 10), size=(3 << 30) + 128, method=zipfile.ZIP_STORED, packed=True)
    (tmp_path / "label.csv").write_text("a,t\n" + "1,b\n" * 20000 + "2," + "c" * 131000 + "\n")
    for name in ("hole.json", "hole.safetensors"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 40)
    said = limited(
        "try_(data.load, 'honest')\ntry_(data.load, 'liar')\ntry_(data.load, 'a.npz')\ntry_(data.load, 'label.csv')\n"
        "try_(jsonfile.read_json, 'hole.json', 'x')\n"
        "try_(weightfile.open_weights('hole.safetensors', [1, 1]).__enter__)\n",
        tmp_path,
        200 << 20,
    )
    expected = ("too many for this machine", "it has more", "too many for this machine", "fine", "1,099,511,627,776")
    for line, words in zip(said, (*expected, "hole.safetensors"), strict=True):
        assert words in line


def test_csv_needs_memory_that_its_size_justifies(tmp_path):
    import tracemalloc

    path = tmp_path / "a.csv"
    for text in (
        "a,b,t\n" + "1,2,0\n" * 30000 + "1,2,1\n",
        "a,t\n1," + "c" * 200000 + "\n",
        "a,t\n" + '"' + "1" * 300000 + "\n",
        ",".join(["c"] * 50000) + "\n" + ",".join(["1"] * 50000) + "\n" + ",".join(["2"] * 50000) + "\n",
    ):
        path.write_text(text)
        tracemalloc.start()
        refusal(data.load, str(path))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 60 * len(text)


# checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of two ranks, and its files."""
    folder = tmp_path_factory.mktemp("saved")
    train_on(2, small_data(), stages=(1,), steps=4, hidden=(4,), optimizer="adam", precision="fp16",
             checkpoint=str(folder), slices=(2, 1), keep=1)  # fmt: skip
    (own,) = folder.iterdir()
    return own


def verified(folder):
    checkpoint = open_checkpoint(str(folder))
    checkpoint.verify()
    return checkpoint.manifest


@pytest.mark.parametrize("name", ["manifest.json", "rank-0000.safetensors", "rank-0001.safetensors"])
def test_a_damaged_checkpoint_is_never_taken_for_whole(saved, name):
    path, chance, before = saved / name, random.Random(name), verified(saved)
    whole = path.read_bytes()
    try:
        for _ in range(TIMES):
            damaged = mutated(chance, whole)
            path.write_bytes(damaged)
            if refusal(verified, saved) is None:  # a manifest may be written with other blanks
                assert verified(saved) == before
                assert damaged == whole or name == "manifest.json"
    finally:
        path.write_bytes(whole)
    verified(saved)


def test_a_changed_manifest_with_a_seal_of_its_own(saved, tmp_path):
    """Someone has changed a value, and its SHA-256 after it: refused, or the training goes on to its end."""
    whole = json.loads((saved / "manifest.json").read_text())
    chance, folder = random.Random(7), tmp_path / saved.name
    shutil.copytree(saved, folder)
    reached = 0
    del whole["sha256"]
    for _ in range(3 * TIMES):
        (folder / "manifest.json").write_text(json.dumps(seal(changed(chance, whole))))
        reached += refusal(go_on, folder) is None
    assert reached > 10


def go_on(folder):
    """Verify a checkpoint and take a step more on one rank, which writes nothing."""
    steps = verified(folder).step + 1
    alone = {"tensor_parallel": 1, "pipeline": 1, "straggler": None, "collective": "ring"}
    quiet = {"save": None, "checkpoint": None, "checkpoint_every": None, "witness": (), "trace_memory": False}
    zerosim.train(resumed(str(folder), 1, steps=steps, **alone, **quiet), data=small_data())


def test_checkpoint_folders_that_are_none(saved, tmp_path):
    shutil.copytree(saved, tmp_path / saved.name)
    shard = tmp_path / saved.name / "rank-0001.safetensors"
    shard.unlink()
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        make(shard)
        assert "rank-0001" in refusal(verified, tmp_path)
        shard.rmdir() if shard.is_dir() else shard.unlink()
    (tmp_path / saved.name / "manifest.json").unlink()
    os.mkfifo(tmp_path / saved.name / "manifest.json")
    assert "manifest.json" in refusal(verified, tmp_path)
    for name in (f"step-{'9' * 250}", "step-00000009"):
        (tmp_path / name).mkdir()
        assert name in refusal(verified, tmp_path)
