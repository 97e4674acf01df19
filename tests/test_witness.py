"""The witnesses: what the interpreter, the operating system and the network count, held against the books."""

import json
import sys

import pytest
from conftest import mpirun, run_zerosim
from contract import check
from test_cli import assert_one_line

from zerosim.witness import wire

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and TCP_INFO are Linux's")


def witnessed(n, tmp_path, *words):
    """Run under mpirun and return the runs of the report, whose books must be right."""
    done = run_zerosim(n, *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(check(report, [0, 1, 2, 3], n)) == []
    return report["runs"]


def totals(run):
    """Bytes at rest and at the peak of each rank, as the ledger counted them."""
    at_rest = [sum(own.values()) for own in run["memory"]["at_rest"]["measured"]]
    return at_rest, [own["total"] for own in run["memory"]["peak"]["measured"]]


MODEL = ["--hidden", "1500,1500", "--steps", 3]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("more", [[], ["--grad-accum", 2, "--clip-norm", 1, "--bucket", 300_000, "--optimizer", "sgd"]])
def test_the_interpreter(tmp_path, precision, more):
    """2.4 million parameters: arrays at rest to the byte, the peak of a step within 1 %, at each stage."""
    for run in witnessed(2, tmp_path, *MODEL, "--precision", precision, "--trace-memory", *more):
        at_rest, peak = totals(run)
        said = run["witnesses"]["interpreter"]
        assert [own["at_rest"] for own in said] == at_rest
        assert [own["peak"] for own in said] == run["memory"]["traced_peak"] == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("n", [1, 3])
def test_the_interpreter_on_small_models(tmp_path, n):
    """Arrays at rest to the byte for any model; Python's own objects count in the peak alone."""
    for run in witnessed(n, tmp_path, "--hidden", "13,7", "--steps", 3, "--witness", "interpreter"):
        assert [own["at_rest"] for own in run["witnesses"]["interpreter"]] == totals(run)[0]


@linux
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_operating_system(tmp_path, precision):
    """States of 40 MB and more within 2 %, and resident memory never more than 1.05 of the ledger's peak."""
    words = ["--hidden", "3000,3000", "--precision", precision, "--steps", 3, "--witness", "os"]
    for run in witnessed(2, tmp_path, *words):
        for said, at_rest, peak in zip(run["witnesses"]["os"], *totals(run), strict=True):
            assert at_rest > 40e6
            assert said["at_rest"] == pytest.approx(at_rest, rel=0.02)
            assert 0.98 < said["peak"] / peak < 1.05
            assert said["floor_written"] > 5e6


@linux
@pytest.mark.parametrize(("n", "collective"), [(2, "ring"), (3, "bruck"), (4, "doubling")])
def test_the_wire(tmp_path, n, collective):
    """What the sockets sent and received is what the door counted and MPI's headers, 0.02 % from 4 MiB on."""
    for run in witnessed(n, tmp_path, *MODEL, "--witness", "wire", "--collective", collective):
        said = run["witnesses"]["wire"]
        assert sum(own["counted_sent"] for own in said) == sum(own["counted_received"] for own in said)
        for own in said:
            for way in ("sent", "received"):
                assert own[f"counted_{way}"] > 4 << 20
                assert 0 < own[way] / own[f"counted_{way}"] - 1 < 2e-4


@linux
def test_the_wire_of_native_collectives(tmp_path):
    """Their bytes are modelled in the books, and here they are seen."""
    for run in witnessed(2, tmp_path, *MODEL, "--witness", "wire", "--collective", "native"):
        for own in run["witnesses"]["wire"]:
            assert own["sent"] > 0.99 * own["counted_sent"]


RESIDENT = """
import numpy as np
from zerosim.witness import system
before = system.private_dirty()
array = np.ones(16_000_000)
print(system.private_dirty() - before)
system.forget_peak()
low = system.peak_resident()
more = np.ones(16_000_000)
del more
print(system.peak_resident() - low)
"""


@linux
def test_what_is_resident_is_seen():
    """In a process of its own: of one that has run for long, the kernel may take pages away meanwhile."""
    done = mpirun(0, "-c", RESIDENT)
    assert [int(line) for line in done.stdout.split()] == [pytest.approx(128_000_000, rel=0.01)] * 2, done.stderr


@linux
def test_sockets_are_seen():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as a:
        with server.accept()[0] as b:
            sent, received = wire.counters()
            for _ in range(10):
                a.sendall(bytes(10_000))
                assert len(b.recv(10_000, socket.MSG_WAITALL)) == 10_000
            assert [after - before for after, before in zip(wire.counters(), (sent, received), strict=True)] == [
                100_000,
                100_000,
            ]


def test_the_table(tmp_path):
    done = run_zerosim(2, "--steps", 2, "--hidden", "40", "--trace-memory", cwd=tmp_path)
    assert "Witnesses" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines() if " at rest " in line and "=" in line]
    assert [line[0] for line in lines if len(line) == 6] == ["0", "1", "2", "3"]
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("flag", [["--trace-memory"], ["--witness", "os"], ["--witness", "wire"]])
def test_threads_cannot_be_told_apart(tmp_path, flag):
    assert_one_line(run_zerosim(0, "--ranks", 2, *flag, cwd=tmp_path), [flag[0][2:].replace("-", "_"), "mpirun"])


def test_a_witness_that_is_not_known(tmp_path):
    done = run_zerosim(2, "--witness", "os,radar", cwd=tmp_path)
    assert_one_line(done, ["witness", "'radar'", "interpreter, os, wire"])


@linux
def test_the_wire_cannot_be_seen_in_shared_memory(tmp_path):
    """A setting in a file comes too late to tell MPI to use TCP; nothing is reported that was not seen."""
    (tmp_path / "c.json").write_text(json.dumps({"witness": ["wire"], "steps": 2}))
    done = run_zerosim(2, "--config", "c.json", cwd=tmp_path)
    assert_one_line(done, ["witness wire", "TCP"])
