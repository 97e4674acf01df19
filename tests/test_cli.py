"""The command line: bad input ends with one line and exit 2, on every number of ranks; good input does what it says."""

import gzip
import json
import struct
import zipfile

import numpy as np
import pytest
from conftest import in_one_job, mpirun, run_zerosim
from contract import check

FAST = ("--steps", "2", "--hidden", "8")


def bad_inputs(folder):
    """Yield (name, arguments, words that the line must contain)."""

    def put(name, content):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    def npz(name, **arrays):
        np.savez(folder / name, **arrays)
        return folder / name

    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    whole = npz("whole.npz", x=np.random.default_rng(0).random((400, 9)), y=np.arange(400) % 2).read_bytes()
    nan = x.copy()
    nan[3, 1] = np.nan
    put("afile", "")
    yield "unknown flag", ["--stagse", "1"], ["--stagse", "is --stage meant"]
    yield "unknown command", ["trian"], ["trian", "train"]
    yield "unknown command like no other", ["xyz"], ["no command 'xyz'; there are train, checkpoint, "]
    yield "stray word", ["train", "digits"], ["digits"]
    yield "no number", ["--batch-size", "many"], ["--batch-size", "many"]
    yield "unknown stage", ["--stage", "4"], ["stage 4", "0, 1, 2, 3"]
    yield "stages in words", ["--stages", "all"], ["stages", "all"]
    yield "same stage twice", ["--stages", "1,1"], ["twice"]
    yield "unknown optimizer", ["--optimizer", "lion"], ["lion", "adamw"]
    yield "unknown precision", ["--precision", "fp8"], ["fp8", "bf16"]
    yield "test mode", ["--precision", "fp64"], ["fp64", "bf16"]
    yield "unknown collective", ["--collective", "rnig"], ["rnig", "ring", "native"]
    yield "levels without ranks per node", ["--collective", "hierarchical"], ["hierarchical:4"]
    yield "levels that do not fit", ["--collective", "hierarchical:5"], ["not filled"]
    yield "no such algorithm file", ["--collective", folder / "none.py"], ["none.py", "no such file"]
    yield "algorithm that is wrong", ["--collective", wrong_algorithm(folder)], ["wrong.py", "exchange 0, rank 0"]
    yield "algorithm file with an error", ["--collective", put("broken.py", "def f(:\n")], ["broken.py", "line 1"]
    yield "algorithm file without it", ["--collective", f"{put('empty.py', 'x = 1')}:mine"], ["mine", "empty.py"]
    yield "batch smaller than ranks", ["--batch-size", "3", "--grad-accum", "4"], ["batch_size", "3"]
    yield "batch larger than data", ["--batch-size", "5000"], ["5000", "1438"]
    yield "no batch", ["--batch-size", "0"], ["batch_size"]
    yield "missing file", ["--data", folder / "none.npz"], ["none.npz", "no such"]
    yield "unknown kind of file", ["--data", put("data.txt", "1")], ["data.txt", ".npz"]
    yield "short row", ["--data", put("short.csv", "a,b,t\n1,2,0\n1,1\n")], ["line 3", "2 columns"]
    yield "words in a row", ["--data", put("words.csv", "a,b,t\n1,2,0\n1,two,1\n")], ["line 3", "'b'", "'two'"]
    yield "nan in a row", ["--data", put("nan.csv", "a,b,t\n1,2,0\n1,nan,1\n")], ["line 3", "not finite"]
    yield "no header", ["--data", put("bare.csv", "1.5,2,0\n1,3,1\n")], ["line 1", "header"]
    yield "empty csv", ["--data", put("empty.csv", "")], ["line 1", "header"]
    yield "header alone", ["--data", put("alone.csv", "a,b\n")], ["no rows"]
    yield "binary csv", ["--data", put("binary.csv", b"a,b\n\xff\xfe,\x00\n")], ["CSV"]
    yield "missing target", ["--data", put("target.csv", "a,t\n1,0\n2,\n")], ["line 3", "target"]
    yield "nan target", ["--data", put("nantarget.csv", "a,t\n1,0.5\n2,nan\n")], ["not finite"]
    yield "no y", ["--data", npz("no_y.npz", x=x)], ["'y'", "only x"]
    yield "pickled", ["--data", npz("pickled.npz", x=x, y=np.array([{}] * 20, object))], ["pickle", "never"]
    yield "nan in x", ["--data", npz("nan.npz", x=nan, y=y)], ["row 4", "not finite"]
    yield "lengths differ", ["--data", npz("lengths.npz", x=x, y=y[:9])], ["20 rows", "9"]
    yield "one class", ["--data", npz("one.npz", x=x, y=y * 0)], ["fewer than two classes"]
    yield "no rows", ["--data", npz("zero.npz", x=x[:0], y=y[:0])], ["empty"]
    yield "complex x", ["--data", npz("complex.npz", x=x + 1j, y=y)], ["complex"]
    yield (
        "too large for fp16",
        ["--data", npz("large.npz", x=x * 1e6, y=y), "--batch-size", "4"],
        ["float16", "--precision"],
    )
    yield "cut-off npz", ["--data", put("cut.npz", whole[: len(whole) // 2])], ["cut.npz"]
    yield "cut-off member", ["--data", put("member.npz", damaged(whole))], ["member.npz"]
    np.save(folder / "single", x)
    (folder / "single.npy").rename(folder / "single.npz")
    yield "a single array", ["--data", folder / "single.npz"], ["single array"]
    yield "an open quote", ["--data", put("quote.csv", 'a,t\n1,"0\n2,1\n')], ["line 3"]
    yield "a class of many digits", ["--data", put("digits.csv", f"a,t\n1,{'9' * 30}\n2,1\n")], ["64 bits"]
    yield "save is a folder", ["--save", folder], ["save", "folder"]
    yield "no npz at all", ["--data", put("text.npz", "hello")], ["text.npz"]
    yield "empty folder", ["--data", mkdir(folder / "void")], ["IDX"]
    yield "cut-off idx", ["--data", idx_folder(folder / "cutidx", cut=3)], ["needs"]
    yield "idx without labels", ["--data", idx_folder(folder / "nolabels", labels=False)], ["partner"]
    yield "cut-off gzip", ["--data", idx_folder(folder / "cutgz", gz=True, cut=3)], ["cut off"]
    yield "negative learning rate", ["--lr", "-0.1"], ["lr", "-0.1"]
    yield "learning rate nan", ["--lr", "nan"], ["lr", "nan"]
    yield "clip at zero", ["--clip-norm", "0"], ["clip_norm"]
    yield "no steps", ["--steps", "0"], ["steps"]
    yield "epochs and steps", ["--epochs", "1", "--steps", "2"], ["epochs", "steps"]
    yield "nothing to train on", ["--test-fraction", "1"], ["test_fraction"]
    yield "negative seed", ["--seed", "-1"], ["seed"]
    yield "negative bucket", ["--bucket", "-5"], ["bucket"]
    yield "layer of width 0", ["--hidden", "8,0"], ["width 0"]
    yield "hidden in words", ["--hidden", "8,x"], ["hidden", "8,x"]
    yield "out is a file", ["--out", folder / "afile"], ["out", "afile"]
    yield "out below a file", ["--out", folder / "afile" / "below"], ["out", "cannot write"]
    (folder / "taken" / "report.json").mkdir(parents=True)
    yield "report is a folder", ["--out", folder / "taken"], ["report.json is a folder"]
    yield "model larger than memory", ["--hidden", "900000,900000"], ["stage 0", "810,0", "too many for this machine"]
    yield "out below a device", ["--out", "/dev/null/here"], ["out", "cannot write"]
    yield "save nowhere", ["--save", folder / "no" / "where.safetensors"], ["save", "where"]
    yield "init missing", ["--init", folder / "no.safetensors"], ["init", "no such"]
    yield "init is something else", ["--init", put("no.st", "hello")], ["init", "safetensors"]
    yield "init of another model", ["--init", weights(folder), "--hidden", "9"], ["layers.0.weight", "needs"]
    yield "config missing", ["--config", folder / "no.json"], ["no.json"]
    yield "config not JSON", ["--config", put("bad.json", "{")], ["not JSON"]
    yield "config with an unknown key", ["--config", put("key.json", '{"lr": 0.1, "warmup": 3}')], ["'warmup'"]
    yield (
        "config with an unknown inner key",
        ["--config", put("inner.json", '{"zero_optimization": {"stage": 2, "sub_group_size": 1e9}}')],
        ["zero_optimization.sub_group_size", "reduce_bucket_size"],
    )
    offload = '{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}'
    yield "config that offloads", ["--config", put("cpu.json", offload)], ["offload_optimizer", "plan --deepspeed"]
    yield (
        "config with a list for a name",
        ["--config", put("list.json", '{"collective": ["ring"]}')],
        ["must be a name"],
    )
    yield "config with a wrong type", ["--config", put("type.json", '{"batch_size": "64"}')], ["batch_size"]


def wrong_algorithm(folder):
    """A ring whose ranks send to themselves, on one rank and on more."""
    (folder / "wrong.py").write_text(
        "from zerosim.collectives import Exchange\n"
        "def all_gather(rank, N):\n"
        "    for s in range(max(1, N - 1)):\n"
        "        yield Exchange(rank, (rank - s) % N, rank, (rank + s) % N, False)\n"
    )
    return folder / "wrong.py"


def damaged(whole):
    """An archive whose directory is in order, and whose data is not."""
    middle = len(whole) // 2
    return whole[:middle] + bytes(200) + whole[middle + 200 :]


def mkdir(path):
    path.mkdir()
    return path


def weights(folder):
    from safetensors.numpy import save_file

    shapes = {"layers.0.weight": (8, 64), "layers.0.bias": (8,), "layers.1.weight": (10, 8), "layers.1.bias": (10,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, folder / "w.safetensors")
    return folder / "w.safetensors"


def idx_folder(folder, rows=30, prefix="train", gz=False, cut=0, labels=True, classes=3):
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(rows)
    pixels, digits = random.integers(0, 9, (rows, 3, 4), np.uint8), (np.arange(rows) % classes).astype(np.uint8)
    files = {f"{prefix}-images-idx3-ubyte": pixels}
    if labels:
        files[f"{prefix}-labels-idx1-ubyte"] = digits
    for name, array in files.items():
        content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        content = gzip.compress(content) if gz else content
        (folder / (name + (".gz" if gz else ""))).write_bytes(content[: len(content) - cut])
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    return {name: (list(map(str, words)), expected) for name, words, expected in bad_inputs(folder)}


@pytest.fixture(scope="module")
def ended(once, cases, tmp_path_factory):
    """How each bad input ended on n ranks, and what it left behind."""

    def run(n):
        folder = tmp_path_factory.mktemp("ended")
        some = {name: words for number, (name, (words, _)) in enumerate(cases.items()) if n in (1, 2 + number % 3)}
        places = [mkdir(folder / str(number)) for number in range(len(some))]
        trained = [[*words, "--no-figures"] if words[0].startswith("--") else words for words in some.values()]
        all_done = in_one_job(n, zip(trained, places, strict=True), folder / "job")
        for done, place in zip(all_done, places, strict=True):
            done.left = sorted(path.name for path in place.iterdir())
        return dict(zip(some, all_done, strict=True))

    return lambda n, name: once(f"bad-input-{n}", lambda: run(n))[name]


def names():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return [name for name, _, _ in bad_inputs(Path(folder))]


def assert_one_line(done, expected):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("zerosim: ")
    for word in expected:
        assert word in lines[0]


@pytest.mark.parametrize(("number", "name"), [*enumerate(names())])
def test_bad_input(cases, ended, number, name):
    for n in (1, 2 + number % 3):
        done = ended(n, name)
        assert_one_line(done, cases[name][1])
        assert done.left in ([], ["zerosim-out"]), "nothing is left behind"


@pytest.mark.parametrize(("n", "ranks"), [(0, []), (0, ["--ranks", "3"]), (4, [])])
def test_the_status_of_bad_input_is_the_process_s(cases, tmp_path, n, ranks):
    for name in ("unknown flag", "short row", "layer of width 0"):
        words, expected = cases[name]
        assert_one_line(run_zerosim(n, "train", *ranks, *words, cwd=tmp_path, timeout=20), expected)


@pytest.mark.parametrize(("n", "ranks"), [(4, 2), (2, 1), (1, 2)])
def test_ranks_together_with_mpirun(tmp_path, n, ranks):
    assert_one_line(run_zerosim(n, "--ranks", ranks, cwd=tmp_path), ["--ranks", "mpirun"])


def test_figures_cost_only_the_rank_that_draws_them(tmp_path):
    script = tmp_path / "which.py"
    script.write_text(
        "import sys\n"
        "from zerosim.__main__ import main\n"
        "status = main(['--steps', '1', '--hidden', ''])\n"
        "from mpi4py import MPI\n"
        "loaded = sorted({'matplotlib', 'rich'} & set(sys.modules))\n"
        "sys.stderr.write(f'{status} {MPI.COMM_WORLD.rank} {loaded}\\n')\n"
    )
    done = mpirun(2, script, cwd=tmp_path)
    assert "0 0 ['matplotlib', 'rich']" in done.stderr
    assert "0 1 []" in done.stderr


def test_a_rank_that_raises_before_the_run_ends_all(tmp_path):
    """While ranks agree on what is to be done: the others wait to hear of it, and are not left waiting."""
    script = tmp_path / "fails.py"
    script.write_text(
        "from zerosim.comm import Comm\n"
        "from zerosim.ledger import Ledger\n"
        "from zerosim.transport.mpi import world\n"
        "door = Comm(world(), Ledger())\n"
        "door.agreed(lambda: 1 // door.rank)\n"
    )
    done = mpirun(3, script, cwd=tmp_path, timeout=20)
    assert done.returncode not in (0, 2)
    assert done.stderr.count("ZeroDivisionError") >= 1


def test_a_rank_that_raises_ends_all(tmp_path):
    """In the middle of a run, from a script that uses the library: its traceback once, and no rank hangs."""
    script = tmp_path / "fails.py"
    script.write_text(
        "import zerosim\n"
        "from mpi4py import MPI\n"
        "from zerosim.stages import zero2\n"
        "calls = []\n"
        "before = zero2.step\n"
        "def step(rank, batch):\n"
        "    calls.append(1)\n"
        "    if rank.comm.rank == 1 and len(calls) == 3:\n"
        "        raise ValueError('a cosmic ray')\n"
        "    return before(rank, batch)\n"
        "zero2.step = step\n"
        "zerosim.train(zerosim.Config(stages=(2,), hidden=(8,)), MPI.COMM_WORLD)\n"
    )
    done = mpirun(3, script, cwd=tmp_path, timeout=20)
    assert done.returncode not in (0, 2)
    assert done.stderr.count("ValueError: a cosmic ray") == 1
    assert "rank 1 of 3" in done.stderr


def test_divergence_is_said(tmp_path):
    done = run_zerosim(
        2, "--optimizer", "sgd", "--lr", "1e30", "--precision", "fp32", *FAST, "--steps", 9, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "stage 0" in done.stderr
    assert "learning rate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_main_job(tmp_path, n):
    """As it is typed, on one rank and on four; on two and three for fewer epochs, and without its figures."""
    whole = n in (1, 4)
    done = run_zerosim(n, *([] if whole else ["--epochs", 5]), cwd=tmp_path, figures=whole, timeout=200)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "identical to the bit at stages 0, 1, 2, 3" in done.stdout
    assert "equal the formulas on every rank" in done.stdout
    assert ("stage 3: step 220 of 220" if whole else "stage 3: step 110 of 110") in done.stderr
    report = json.loads((tmp_path / "zerosim-out" / "report.json").read_text())
    assert list(check(report, [0, 1, 2, 3], n)) == []
    assert report["backend"] == "mpi"
    for run in report["runs"]:
        assert run["epochs"][-1]["test_accuracy"] > 0.95
    for name in ("memory", "traffic", "loss", "timeline") if whole else ():
        for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            assert (tmp_path / "zerosim-out" / f"{name}.{kind}").read_bytes().startswith(magic)


def test_threads_and_mpi_do_the_same(tmp_path):
    reports = []
    for n, ranks in ((3, []), (0, ["--ranks", 3])):
        done = run_zerosim(n, "train", *ranks, *FAST, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    mpi, threads = reports
    assert (mpi["backend"], threads["backend"]) == ("mpi", "threads")
    for a, b in zip(mpi["runs"], threads["runs"], strict=True):
        assert a["weights_sha256"] == b["weights_sha256"]
        assert a["traffic"] == b["traffic"]
        assert a["memory"]["peak"] == b["memory"]["peak"]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_same_bits_and_books_over_mpi(tmp_path, n):
    words = ["--hidden", "31,17", "--bucket", 101, "--steps", 5, "--batch-size", 37, "--json", "--no-figures"]
    kinds = (["--clip-norm", "0.1", "--optimizer", "adamw"], ["--grad-accum", "3", "--optimizer", "momentum"])
    several = [[*words, "--precision", precision, *more] for precision in ("fp32", "fp16", "bf16") for more in kinds]
    for own, done in zip(several, in_one_job(n, [(own, tmp_path) for own in several], tmp_path / "job"), strict=True):
        assert done.returncode == 0, (own, done.stderr)
        assert list(check(json.loads(done.stdout), [0, 1, 2, 3], n)) == [], own


def test_config_file_and_flags_over_it(tmp_path):
    (tmp_path / "ds.json").write_text(
        json.dumps(
            {
                "train_batch_size": 32,
                "gradient_accumulation_steps": 2,
                "gradient_clipping": 1.0,
                "zero_optimization": {"stage": 2, "reduce_bucket_size": 500},
                "bf16": {"enabled": True},
                "optimizer": {"type": "AdamW", "params": {"lr": 0.002, "betas": [0.9, 0.999], "weight_decay": 0.1}},
                "hidden": [8],
                "epochs": 1,
            }
        )
    )
    done = run_zerosim(2, "--config", "ds.json", "--batch-size", 16, "--steps", 3, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    expected = {
        "batch_size": 16,
        "grad_accum": 2,
        "clip_norm": 1.0,
        "stages": [2],
        "bucket": 500,
        "precision": "bf16",
        "optimizer": "adamw",
        "lr": 0.002,
        "weight_decay": 0.1,
        "hidden": [8],
        "steps": 3,
        "epochs": None,
    }
    assert {name: report["config"][name] for name in expected} == expected
    assert [run["stage"] for run in report["runs"]] == [2]
    assert report["runs"][0]["steps"] == 3


def test_help_and_version(tmp_path):
    several = (["--help"], ["train", "--help"], ["--version"])
    on_two = in_one_job(2, [(words, tmp_path) for words in several], tmp_path / "job")
    for words, one, two in zip(
        several, [run_zerosim(0, *words, cwd=tmp_path) for words in several], on_two, strict=True
    ):
        for done in (one, two):
            assert done.returncode == 0
            assert done.stderr == ""
            assert done.stdout.count("zerosim") >= 1
            assert done.stdout.count("usage:") == (0 if words == ["--version"] else 1)


def test_a_damaged_archive_is_really_damaged(tmp_path):
    """Holds the test data itself: the archive opens, and its member does not."""
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((400, 9)), y=np.arange(400) % 2)
    (tmp_path / "b.npz").write_bytes(damaged((tmp_path / "a.npz").read_bytes()))
    assert zipfile.is_zipfile(tmp_path / "b.npz")


@pytest.mark.parametrize("figures", [True, False])
def test_figures_are_drawn_or_not(tmp_path, figures):
    done = run_zerosim(0, *FAST, cwd=tmp_path, figures=figures)
    drawn = {f"{name}.{kind}" for name in ("memory", "traffic", "loss", "timeline") for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "zerosim-out").iterdir()} == {"report.json"} | (
        drawn if figures else set()
    )
    assert ("Figures: memory, " in done.stdout) == figures


def test_what_cannot_be_written_is_one_line_after_the_table(tmp_path):
    """A figure's place is taken by a folder: the report is there, the table is printed, and the line names the file."""
    (tmp_path / "zerosim-out" / "traffic.png").mkdir(parents=True)
    done = run_zerosim(2, *FAST, cwd=tmp_path, figures=True)
    assert done.returncode == 1
    assert "traffic.png" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Books: bytes held and bytes sent equal" in done.stdout
    assert list(check(json.loads((tmp_path / "zerosim-out" / "report.json").read_text()))) == []
