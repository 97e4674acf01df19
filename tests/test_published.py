"""`check`: published numbers are evaluated, a wrong one is found, and a bad file ends with one line."""

import json

import pytest
from conftest import in_one_job, run_zerosim
from test_cli import assert_one_line

from zerosim import formulas, published
from zerosim.errors import InputError


def verdicts(*rows):
    text = json.dumps([{"id": "mine", "source": "a paper", "place": "here", **row} for row in rows])
    return published.check(published._rows(text, "rows"))


def verdict(**row):
    return verdicts(row)[0]


def test_all_shipped_rows():
    everything = published.check(published.shipped())
    assert not [found for found in everything if found.status == "differs"]
    assert sum(found.status == "agrees" for found in everything) > 220
    for found in everything:
        evaluated = found.computed is not None or found.row.get("at")
        number = isinstance(found.row["published"], float) and found.row["formula"] not in published.NOT_FORMULAS
        assert evaluated or not number, found.row["id"]
        assert (found.status == "misprint") == bool(found.row.get("misprint"))
    ids = [found.row["id"] for found in everything]
    assert len(set(ids)) == len(ids)


ZERO = {"formula": "2*Psi+(2+K)*Psi/Nd", "unit": "GB(1e9)", "rounding": "rounded"}
OTHERS = [
    # cells of the papers' tables that the shipped file does not have, as their authors write them
    {**ZERO, "formula": "(2+2+K)*Psi", "inputs": {"Psi": 7.5e9, "Nd": 64, "K": 12}, "published": 120},
    {**ZERO, "inputs": {"Psi": 7.5e9, "Nd": 64, "K": 12}, "published": 16.6},
    {**ZERO, "inputs": {"Psi": 7.5e9, "Nd": 16, "K": 12}, "published": 21.6},
    {**ZERO, "formula": "2*Psi+2*Psi+K*Psi/Nd", "inputs": {"Psi": 7.5e9, "Nd": 4, "K": 12}, "published": 52.5},
    {**ZERO, "formula": "(2+2+K)*Psi/Nd", "inputs": {"Psi": 7.5e9, "Nd": 256, "K": 12}, "published": 0.47},
    {
        "formula": "MP*M_dev/(bytes per param at Nd=64): 2*Psi+2*Psi+K*Psi/Nd",
        "inputs": {"MP": 2, "GPUs": 128, "Nd": 64, "K": 12, "device_GB": 32},
        "published": 15.2,
        "unit": "B params",
        "rounding": "rounded-to-1-decimal at MP=1, then x MP",
    },
    {
        "formula": "MP*M_dev/(bytes per param at Nd=64): (2+2+K)*Psi/Nd",
        "inputs": {"MP": 16, "GPUs": 1024, "Nd": 64, "K": 12, "device_GB": 32},
        "published": 2000,
        "unit": "B params",
        "rounding": "printed in T (2T), 2048B exact",
    },
    {
        "quantity": "per CPU",
        "formula": "see report",
        "inputs": {
            "P": 2851598336,
            "L": 32899072,
            "g": 8,
            "n": 1,
            "offload_opt": 1,
            "offload_param": 0,
            "zero_init": 0,
        },
        "published": 127.48,
        "unit": "GiB",
        "rounding": "rounded",
    },
    {
        "formula": "states_as",
        "inputs": {"convention": "infinity", "stage": 0, "Psi": 1e12},
        "published": 20,
        "unit": "TB",
    },
    {
        "formula": "largest_model",
        "inputs": {"stage": 3, "memory": 32e9, "N": 1024},
        "published": 2.05,
        "unit": "trillion",
    },
    {"formula": "mics_saving", "inputs": {"p": 32, "per_node": 8}, "published": 22.5, "unit": "%", "rounding": "down"},
    {"formula": "zeropp_volume.reduce_scatter", "inputs": {}, "published": 0.25},
    {"formula": "bus_factor", "inputs": {"verb": "all_reduce", "N": 8}, "published": 1.75},
]


@pytest.mark.parametrize("row", OTHERS)
def test_other_rows_agree_and_the_number_beside_differs(row):
    assert verdict(**row).status == "agrees"
    off = 10 if "printed in T" in row.get("rounding", "") else 1
    wrong = round(row["published"] * (1 + 0.02 * off), 4)
    assert verdict(**{**row, "published": wrong}).status == "differs"


@pytest.mark.parametrize(
    ("published_", "rounding", "status"),
    [
        (3.6, "nearest", "differs"),
        (3.75, "nearest", "agrees"),
        (3.8, "nearest", "agrees"),
        (3.7, "down", "agrees"),
        (3.8, "up", "agrees"),
        (3.8, "down", "differs"),
        (3.75, "exact", "agrees"),
        (3.8, "exact", "differs"),
        (3.6, "about 5%", "agrees"),
        (3.5, "about 5%", "differs"),
        (3, "over", "agrees"),
        (4, "over", "differs"),
        (4, "under", "agrees"),
        (3.75, "limit", "agrees"),
        (3.7, "limit", "differs"),
        (2, "bound", "agrees"),
        (4, "bound", "differs"),
    ],
)
def test_roundings(published_, rounding, status):
    assert verdict(formula="ratio", inputs={"a": 15, "b": 4}, published=published_, rounding=rounding).status == status


def test_decimals_are_those_printed():
    """120.0, as JSON writers have it, is 120; 1.5e9 is given to a hundred million; and a row can say it."""
    row = {"formula": "ratio", "published": 120.0}
    assert verdict(**row, inputs={"a": 120.4, "b": 1}).status == "agrees"
    assert verdict(**row, inputs={"a": 120.4, "b": 1}, decimals=1).status == "differs"
    text = '[{"id": "a", "formula": "ratio", "inputs": {"a": 1549000000, "b": 1}, "published": 1.5e9}]'
    assert published.check(published._rows(text, "rows"))[0].status == "agrees"


def test_a_misprint_is_explained_and_must_be_one():
    row = {"formula": "ratio", "inputs": {"a": 6, "b": 2}, "misprint": "The factor 2 is missing."}
    assert verdict(**row, published=1.5).status == "misprint"
    assert verdict(**row, published=3).status == "differs"


def test_published_formulas_are_compared_at_points():
    row = {"formula": "states_as", "inputs": {"convention": "megatron-bf16", "stage": 1, "Psi": 1, "N": "d"}}
    at = {"d": [1, 8, 64]}
    assert verdict(**row, published="6 + 12 / d", at=at).status == "agrees"
    found = verdict(**row, published="6 + 12 / (d + 1)", at=at)
    assert found.status == "differs"
    assert "d = 1" in found.why
    found = verdict(**row, published="6 + 12 / (d + 1)", at=at, misprint="One too many.")
    assert (found.status, found.why) == ("misprint", "One too many.")


BAD = [
    ({"formula": "states"}, ["no formula 'states'", "--formulas"]),
    ({"formula": "states_per_rank", "inputs": {"Phi": 1}}, ["states_per_rank(stage, Psi", "Phi"]),
    ({"formula": "states_per_rank", "inputs": {"stage": 1}}, ["Psi"]),
    ({"formula": "states_as", "inputs": {"convention": "mine", "stage": 0, "Psi": 1}}, ["mine"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 0}}, ["ZeroDivisionError"]),
    ({"formula": "zeropp_volume.broadcast", "inputs": {}}, ["broadcast"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "unit": "furlongs"}, ["furlongs", "GiB"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "rounding": "roughly"}, ["roughly", "nearest"]),
    ({"formula": "ratio", "inputs": [1, 2]}, ["inputs must be an object"]),
    (
        {"formula": "ratio", "inputs": {"a": "x", "b": 1}, "published": "x.real", "at": {"x": [1]}},
        ["x.real", "arithmetic"],
    ),
    ({"formula": "ratio", "inputs": {"a": "x", "b": 1}, "published": "x", "at": {"x": []}}, ["'at'"]),
]


BAD += [
    ({"published": "48.8"}, ["without quotes"]),
    ({"published": True}, ["must be a number"]),
    ({"published": [1]}, ["must be a number"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "roundign": "down"}, ["'roundign'", "'rounding' meant"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "decimals": "x"}, ["'decimals'", "whole number"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "rounding": "about .%"}, ["about .%"]),
    ({"formula": "fsdp_peak", "inputs": {"units": [], "F": 2}}, ["fsdp_peak"]),
    ({"formula": "bytes_per_rank", "inputs": {"stage": 1, "Psi": 1, "N": 0}}, ["bytes_per_rank"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": "d"}, "published": "d**d**d", "at": {"d": [99]}}, ["too large"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "published": "9**9**9**9", "at": {"d": [1]}}, ["too large"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "published": "'a'*9", "at": {"d": [1]}}, ["only numbers"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "published": "3(4)", "at": {"d": [1]}}, ["3(4)"]),
    ({"formula": "ratio", "inputs": {"a": 1, "b": 1}, "published": "-" * 9000 + "1", "at": {"d": [1]}}, ["longer"]),
    ({"formula": "ratio", "published": "1", "at": {"d": [None]}}, ["without quotes"]),
    ({"formula": "ratio", "published": "d", "at": {"d": [None]}}, ["'at'"]),
    ({"formula": "states_per_rank", "inputs": {"stage": 9, "Psi": 1e9}}, ["stage 9"]),
    ({"formula": "weights", "inputs": {"Psi": -1}}, ["Psi", "negative"]),
    ({"formula": "weights", "inputs": {"Psi": 1e9}, "published": "99 GB"}, ["is text"]),
    ({"formula": "weights", "inputs": {"Psi": 1e9}, "published": 9, "decimals": -3}, ["leave nothing"]),
    ({"formula": "weights", "inputs": {"Psi": 1e9}, "unit": "GB", "rounding": "5%"}, ["5%", "about P%"]),
    ({"formula": "(2+2+K)*Psi/Nd", "inputs": {"Psi": 1e9, "K": 12}}, ["Nd", "missing"]),
    ({"formula": "(2+2+K)*Psi/Nd", "inputs": {"Psi": 1e9, "K": 12, "N": 4, "Nd": 8}}, ["Nd and N"]),
    ({"formula": "16*Psi", "inputs": {"Psi": 1e9}, "unit": "furlongs"}, ["furlongs"]),
    ({"formula": "16*Psi", "inputs": {"Psi": 1e9}, "unit": "GB", "rounding": "banana"}, ["banana"]),
]


@pytest.mark.parametrize(("row", "words"), BAD)
def test_bad_rows(row, words):
    with pytest.raises(InputError) as raised:
        verdict(**{"published": 1, **row})
    for word in [*words, "row 1 (mine)"]:
        assert word in str(raised.value)


def test_the_command(typed, tmp_path):
    """Once, not once per rank; exit status 1 as soon as a row differs."""
    for n in (0, 3):
        done = run_zerosim(n, "check", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("zero.fig1.os ") == 1
        assert max(map(len, done.stdout.splitlines())) <= 80
    report = json.loads(typed("check", "--json").stdout)
    assert report["schema"] == "zerosim.check/1"
    assert sum(report["counts"].values()) == len(report["rows"]) > 270
    row = {"id": "mine", "formula": "ratio", "inputs": {"a": 1, "b": 3}, "published": 0.34}
    (tmp_path / "mine.json").write_text(json.dumps({"rows": [row]}))
    for n in (0, 2):
        done = run_zerosim(n, "check", "mine.json", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout.count("DIFFERS") == 1
        assert "1 DIFFER without an explanation" in done.stdout


BAD_FILES = [
    ("[{]", ["not JSON", "line 1 column 3"]),
    ("{}", ["list of rows"]),
    ("[1]", ["row 1", "object"]),
    ('[{"id": "a", "published": NaN}]', ["NaN is no number"]),
    ('[{"id": "a", "published": 1e999}]', ["row 1 (a)", "too large"]),
    ("[" * 100_000, ["nested too deeply"]),
    ('[{"id": "a"}]', ["row 1 (a)", "published"]),
    (None, ["none.json", "cannot be read"]),
]


@pytest.fixture(scope="module")
def refused(once, tmp_path_factory):
    """How each bad file ended on two ranks."""

    def run():
        folders = [tmp_path_factory.mktemp("bad") for _ in BAD_FILES]
        for folder, (text, _) in zip(folders, BAD_FILES, strict=True):
            if text is not None:
                (folder / "none.json").write_text(text)
        return in_one_job(2, [(["check", "none.json"], folder) for folder in folders], folders[0] / "job")

    return once("published", run)


@pytest.mark.parametrize("case", range(len(BAD_FILES)))
def test_bad_files(refused, case):
    assert_one_line(refused[case], BAD_FILES[case][1])


def test_every_formula_says_what_it_computes(typed):
    done = typed("check", "--formulas")
    assert done.returncode == 0
    for name, function in published.catalogue().items():
        assert function.__doc__
        assert f"{name}(" in done.stdout


def test_closed_forms_take_arrays():
    """A hundred thousand plans at once are the same as one at a time."""
    import numpy as np

    random = np.random.default_rng(0)
    stage, N = random.integers(0, 4, 1000), 2 ** random.integers(0, 11, 1000)
    Psi, w = 10.0 ** random.uniform(6, 12, 1000), random.choice([2, 4], 1000)
    K = np.where(w == 2, 12, 8)
    held = formulas.states_per_rank(stage, Psi, N, w, K)
    sent = formulas.bytes_per_rank(stage, Psi, N, w, k=3)
    for i in range(1000):
        one = [int(stage[i]), float(Psi[i]), int(N[i]), int(w[i])]
        assert held[i] == pytest.approx(formulas.states_per_rank(*one, int(K[i])), rel=1e-12)
        verbs = formulas.volume(one[0], one[1], 3)
        assert sent[i] == pytest.approx(sum(verbs.values()) * one[3] * (one[2] - 1) / one[2], rel=1e-12)


def test_a_file_that_knows_a_difference_must_know_it_rightly():
    row = {**ZERO, "inputs": {"Psi": 7.5e9, "Nd": 64, "K": 12}, "published": 33, "agrees": False}
    assert verdict(**{**row, "rounding": "off by 50%", "recomputed": 16.6406}).status == "misprint"
    assert verdict(**{**row, "rounding": "off by 50%", "recomputed": 33.0}).status == "differs"
    assert verdict(**{**row, "rounding": "rounded", "recomputed": 16.6406}).status == "differs"
    assert verdict(**{**row, "rounding": "rounded"}).status == "differs"
