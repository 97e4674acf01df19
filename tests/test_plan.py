"""The planner: its bytes are the formulas', what it says fits does, and it refuses what cannot be in one line."""

import contextlib
import csv
import dataclasses
import io
import json

import pytest
from conftest import run_zerosim
from test_cli import assert_one_line

from zerosim import formulas, machine, models
from zerosim.__main__ import main
from zerosim.errors import InputError
from zerosim.plan import RECOMPUTE, VARIANTS, Workload, mlp, plan, plans, recommend, subject_of

H100 = machine.find("dgx-h100")
SUBJECTS = [subject_of(models.find(name)) for name in ("gpt2-xl", "llama-2-7b", "t5-3b", "mixtral-8x7b")]
SUBJECTS += [subject_of(models.from_count(7.5e9)), mlp((64, 256, 256, 10)), mlp((5, 3))]


def run_plan(folder, *words):
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["plan", *words, "--json"]) == 0
    return json.loads(printed.getvalue())


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize("work", [Workload(gpus=64), Workload(gpus=7, precision="fp32", optimizer="sgd", grad_accum=3)])
def test_states_and_traffic_are_the_closed_forms(subject, work):
    """Up to padding: less than N parameters for each unit."""
    w, g, K = work.per_parameter()
    N, most = work.gpus, work.gpus * sum(times for _, times in subject.units)
    for stage in range(4):
        one = plan(subject, H100, work, stage, "none")
        states = formulas.model_states(stage, subject.parameters, N, w, K, g)
        for name, value in states._asdict().items():
            assert 0 <= one.bytes[name] - value <= (w + g + K) * most
        sent = formulas.bytes_per_rank(stage, subject.parameters, N, w, work.grad_accum)
        assert 0 <= one.traffic["data_parallel"] - sent <= 3 * 3 * w * most + 1
        assert one.bytes["total"] == sum(v for k, v in one.bytes.items() if k != "total" and v is not None)
        assert all(isinstance(value, int) for value in one.bytes.values() if value is not None)


@pytest.mark.parametrize(("stage", "offload"), VARIANTS)
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_what_is_offloaded_is_not_lost(subject, stage, offload):
    """Device, host and NVMe together hold what the device alone would."""
    work = Workload(gpus=16)
    there, away = plan(subject, H100, work, stage, "none"), plan(subject, H100, work, stage, offload)
    states = ("parameters", "gradients", "optimizer_states")
    whole = sum(there.bytes[name] for name in states)
    left = sum(away.bytes[name] for name in states)
    assert whole - left == pytest.approx((away.host_bytes + away.nvme_bytes) / 8, abs=3)
    assert (away.host_bytes > 0) == ("cpu" in offload)
    assert (away.nvme_bytes > 0) == ("nvme" in offload)


@pytest.mark.parametrize("subject", SUBJECTS[:5], ids=lambda subject: subject.name)
@pytest.mark.parametrize("memory", [16e9, 80e9])
def test_the_fewest_devices_that_do(subject, memory):
    cluster = dataclasses.replace(H100, memory=memory)
    work = Workload(gpus=64, recompute="full")
    for stage, offload in VARIANTS:
        least = plan(subject, cluster, work, stage, offload).smallest_gpus
        if least is not None:
            assert plan(subject, cluster, dataclasses.replace(work, gpus=least), stage, offload).fits
        if least is None:
            assert not plan(subject, cluster, dataclasses.replace(work, gpus=2**20), stage, offload).fits
        elif least > 1:
            assert not plan(subject, cluster, dataclasses.replace(work, gpus=least - 1), stage, offload).fits


def test_the_largest_model_is_the_papers_bound():
    """ZeRO's table 2, with all of the memory for the states: activations unknown, buffers small beside them."""
    cluster = dataclasses.replace(machine.find("dgx-2"), memory=32e9)
    work = Workload(gpus=64, usable=1.0, bucket=1, overlap=False)
    subject = subject_of(models.from_count(1e9))
    for stage, bound in ((0, 2.0e9), (1, 7.6e9), (2, 14.4e9)):
        assert plan(subject, cluster, work, stage, "none").largest_model == pytest.approx(bound, rel=0.01)


def test_fitting_is_a_matter_of_the_last_byte():
    subject, work = SUBJECTS[1], Workload(gpus=8, usable=1.0)
    needed = plan(subject, H100, work, 2, "none").bytes["total"]
    assert plan(subject, dataclasses.replace(H100, memory=needed), work, 2, "none").fits
    short = plan(subject, dataclasses.replace(H100, memory=needed - 1), work, 2, "none")
    assert not short.fits
    assert "the device lacks 1 B" in short.why_not


def test_activations_shrink_with_recomputation_and_tensor_parallelism():
    def held(**settings):
        return plan(SUBJECTS[1], H100, Workload(gpus=64, **settings), 1, "none").bytes["activations"]

    none, selective, full = (held(recompute=how) for how in RECOMPUTE)
    assert none > selective > full
    assert selective > held(tensor_parallel=8) > held(tensor_parallel=8, sequence_parallel=True)
    model = SUBJECTS[0].model  # a GPT block is the paper's
    one = plan(SUBJECTS[0], H100, Workload(gpus=64, recompute="none"), 1, "none")
    block = formulas.layer_activations(1024, 1, model.hidden, model.heads)
    after = formulas.logits(1024, 1, model.hidden, model.vocab)
    assert one.bytes["activations"] == model.layers * block + after


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("gpt2-xl", 34),
        ("bert-base", 34),
        ("llama-2-7b", 10 + 8 + 6 * 11008 / 4096),
        ("llama-3-70b", 10 + 4 + 4 / 8 + 6 * 28672 / 8192),
        ("mixtral-8x7b", 10 + 4 + 4 / 4 + 2 * 6 * 14336 / 4096),
        ("t5-3b", 10 + 2.5 + 1.5 * 8 * 4 + 4 * 16),  # half of its blocks attend twice, heads are four times as wide
    ],
)
def test_activations_of_other_architectures(name, each):
    """Bytes per token and h of a block, without the scores, counted by hand as Korthikanti et al. count GPT's."""
    subject = subject_of(models.find(name))
    one = plan(subject, H100, Workload(gpus=8, seq=512), 1, "none")
    h, vocab, layers = subject.model.hidden, subject.model.vocab, subject.model.layers
    assert one.bytes["activations"] == pytest.approx(512 * h * layers * each + formulas.logits(512, 1, h, vocab), abs=1)


def test_partitioned_checkpoints():
    """Pa cuts them by the tensor-parallel devices, Pa+cpu has them on the host (ZeRO, section 6.1)."""
    work = Workload(gpus=64, tensor_parallel=8, recompute="full")
    whole, cut, away = (
        plan(SUBJECTS[1], H100, dataclasses.replace(work, checkpoints=how), 3, "none")
        for how in ("whole", "partitioned", "cpu")
    )
    h, layers = SUBJECTS[1].model.hidden, SUBJECTS[1].model.layers
    checkpoints = formulas.activation_checkpoints(h, 1, 4096, layers)
    assert whole.bytes["activations"] - cut.bytes["activations"] == checkpoints * 7 / 8
    assert whole.bytes["activations"] - away.bytes["activations"] == checkpoints
    assert away.host_bytes == 8 * checkpoints / 8
    assert away.traffic["host"] == 2 * checkpoints / 8


def test_time_is_made_of_its_parts():
    work = Workload(gpus=64)
    for one in plans(SUBJECTS[1], H100, work):
        seconds = one.seconds
        parts = sum(seconds[name] for name in ("compute", "optimizer", "communication", "offload"))
        assert seconds["total"] == pytest.approx(parts - seconds["hidden"])
        assert 0 <= seconds["hidden"] <= seconds["communication"] + seconds["offload"]
        alone = plan(SUBJECTS[1], H100, dataclasses.replace(work, overlap=False), one.stage, one.offload)
        assert alone.seconds["total"] >= seconds["total"]
        assert alone.seconds["hidden"] == 0
        better = plan(SUBJECTS[1], H100, dataclasses.replace(work, efficiency=0.9), one.stage, one.offload)
        assert better.seconds["compute"] == pytest.approx(seconds["compute"] / 2)


def test_the_recommendation_fits_and_nothing_is_much_faster():
    for subject in SUBJECTS:
        for gpus in (1, 8, 512):
            found = plans(subject, H100, Workload(gpus=gpus))
            best, reason = recommend(found)
            assert reason
            fitting = [one for one in found if one.fits]
            assert (best is None) == (not fitting)
            if best and best.seconds:
                assert best.fits
                assert best.seconds["total"] <= 1.1 * min(one.seconds["total"] for one in fitting)


def test_zeropp():
    """hpZ holds a second copy of the parameters; the quantised passes send as much less as the paper says."""
    plain = plan(SUBJECTS[1], H100, Workload(gpus=64), 3, "none")
    second = plan(SUBJECTS[1], H100, Workload(gpus=64, secondary=8), 3, "none")
    Psi = SUBJECTS[1].parameters
    assert second.bytes["parameters"] - plain.bytes["parameters"] == pytest.approx(2 * Psi / 8, rel=1e-3)
    less = plan(SUBJECTS[1], H100, Workload(gpus=64, quantized_weights=True, quantized_gradients=True), 3, "none")
    assert less.traffic["data_parallel"] / plain.traffic["data_parallel"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpus": 10, "tensor_parallel": 4}, ["gpus", "10", "tensor_parallel 4"]),
        ({"gpus": 0}, ["gpus", "from 1"]),
        ({"micro_batch": -1}, ["micro_batch"]),
        ({"seq": 0}, ["seq"]),
        ({"precision": "fp8"}, ["fp8", "bf16"]),
        ({"convention": "mine"}, ["mine", "zero"]),
        ({"checkpoints": "cpu"}, ["checkpoints", "recompute full"]),
        ({"recompute": "some"}, ["some", "selective"]),
        ({"efficiency": 0.0}, ["efficiency"]),
        ({"usable": 1.5}, ["usable"]),
        ({"gpus": 64, "secondary": 7}, ["secondary", "64"]),
    ],
)
def test_bad_workloads(settings, words):
    with pytest.raises(InputError) as raised:
        Workload(**settings)
    for word in words:
        assert word in str(raised.value)


def test_the_command(typed, tmp_path):
    report = run_plan(tmp_path, "--parameters", "7.5e9", "--gpus", "64", "--memory", "80e9", "--precision", "fp16")
    assert report["schema"] == "zerosim.plan/1"
    assert report["model"]["parameters"] == 7_500_000_000
    assert [(one["stage"], one["offload"]) for one in report["plans"]] == [list(v) and v for v in VARIANTS]
    first = report["plans"][0]
    for name, expected in (("parameters", 15e9), ("gradients", 15e9), ("optimizer_states", 90e9)):
        assert first["bytes"][name] == pytest.approx(expected, rel=1e-6)
    assert first["bytes"]["activations"] is None
    assert not first["fits"]
    assert report["recommended"]["stage"] in (1, 2, 3)
    assert any("not known" in line for line in report["assumptions"])
    done = typed("plan", "--parameters", "7.5e9", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == len(VARIANTS)
    assert int(rows[0]["bytes_parameters"]) == first["bytes"]["parameters"]
    assert rows[0]["bytes_activations"] == ""


def test_the_table(tmp_path):
    for n in (0, 3):
        done = run_zerosim(n, "plan", "--model", "GPT3-175B", "--gpus", "1024", "--tensor-parallel", "8", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Recommended: ") == 1
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "174,604,259,328 parameters" in done.stdout
        assert "128 data-parallel ranks" in " ".join(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_files_and_figure(tmp_path):
    done = run_zerosim(0, "plan", "--layers", "24", "--hidden", "1024", "--heads", "16", "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names == {"plan.json", "plan.csv", "plan.png", "plan.svg"}
    report = json.loads((tmp_path / "here" / "plan.json").read_text())
    assert report["model"]["layers"] == 24
    assert report["model"]["parameters"] == models.from_shape(24, 1024, 16).parameters


def test_batch_size_is_made_of_micro_steps(tmp_path):
    words = ("--model", "gpt2", "--gpus", "8", "--batch-size", "64")
    assert run_plan(tmp_path, *words, "--micro-batch", "2")["workload"]["grad_accum"] == 4
    assert run_plan(tmp_path, *words, "--grad-accum", "2")["workload"]["micro_batch"] == 4


def test_a_config_file(tmp_path):
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = run_plan(tmp_path, "--model", "config.json", "--gpus", "4")
    assert report["model"]["parameters"] == models.from_config(str(tmp_path / "config.json")).parameters


BAD = [
    ([], ["no model", "--parameters"]),
    (["--model", "gpt2", "--parameters", "1e9"], ["--model and --parameters"]),
    (["--model", "gtp2"], ["gtp2", "gpt2"]),
    (["--model", "none.json"], ["none.json", "cannot be read"]),
    (["--model", "unknown.json"], ["unknown.json", "mamba", "llama"]),
    (["--model", "broken.json"], ["broken.json", "line 1 column"]),
    (["--parameters=-7e9"], ["-7000000000"]),
    (["--parameters", "many"], ["many", "7.5e9"]),
    (["--layers", "12"], ["--hidden"]),
    (["--layers", "12", "--hidden", "-5"], ["hidden", "-5"]),
    (["--layers", "12", "--hidden", "100", "--heads", "7"], ["100", "7"]),
    (["--widths", "5"], ["widths"]),
    (["--widths", "5,x"], ["5,x"]),
    (["--model", "gpt2", "--gpus", "10", "--tensor-parallel", "4"], ["10", "4"]),
    (["--model", "gpt2", "--gpus", "-1"], ["gpus", "from 1"]),
    (["--model", "gpt2", "--memory=-80e9"], ["-80e9"]),
    (["--model", "gpt2", "--memory", "80 furlongs"], ["80 furlongs"]),
    (["--model", "gpt2", "--flops", "0"], ["flops"]),
    (["--model", "gpt2", "--cluster", "dgx-9"], ["dgx-9", "dgx-h100"]),
    (["--model", "gpt2", "--gpus-per-node", "0"], ["ranks_per_node"]),
    (["--model", "gpt2", "--batch-size", "65", "--gpus", "64"], ["65", "multiple of 64"]),
    (["--model", "gpt2", "--csv", "--json"], ["csv", "json"]),
    (["--model", "gpt2", "--out", "afile"], ["out", "afile"]),
    (["--model", "gpt2", "--optmizer", "adam"], ["--optimizer"]),
    (["--model", "gpt2", "--deepspeed", "none.json"], ["none.json"]),
    (["--model", "gpt2", "--deepspeed", ""], ["cannot be read"]),
    (["--model", "gpt2", "--out", ""], ["out"]),
    (["--model", "deep.json"], ["deep.json", "nested too deeply"]),
    (["--model", "gpt2", "--gpus", "9" * 400], ["gpus", "1,000,000,000"]),
    (["--model", "gpt2", "--links", "9" * 400], ["links"]),
    (["--model", "gpt2", "--bandwidth-between", "inf"], ["bandwidth_between"]),
    (["--model", "gpt2", "--flops", "1e-300"], ["flops"]),
    (["--model", "gpt2", "--efficiency", "1e-320"], ["efficiency"]),
    (["--model", "gpt2-xl", "--gpus", "8", "--tensor-parallel", "8"], ["25 heads", "8"]),
    (["--widths", "64,10", "--gpus", "8", "--tensor-parallel", "8"], ["tensor_parallel"]),
    (["--widths", f"64,{'9' * 5000}"], ["widths"]),
    (["--model", "gpt2", "--micro-batch", "2", "--grad-accum", "2", "--batch-size", "512"], ["two of the three"]),
]


@pytest.mark.parametrize(("words", "expected"), BAD)
def test_bad_input(typed, tmp_path, words, expected):
    (tmp_path / "afile").touch()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "unknown.json").write_text('{"model_type": "mamba"}')
    assert_one_line(typed("plan", *words), expected)


DEEPSPEED = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 3,
    "bf16": {"enabled": True},
    "optimizer": {"type": "Adam", "params": {"lr": 1e-4}},
    "zero_optimization": {
        "stage": 3,
        "reduce_bucket_size": 1_000_000,
        "overlap_comm": False,
        "offload_optimizer": {"device": "cpu"},
        "stage3_param_persistence_threshold": 1000,
        "zero_hpz_partition_size": 4,
    },
    "wall_clock_breakdown": True,
}


def test_a_deepspeed_configuration(tmp_path):
    """What it says is planned with, flags prevail, and what it says besides is listed."""
    (tmp_path / "ds.json").write_text(json.dumps(DEEPSPEED))
    words = ("--model", "gpt2", "--gpus", "8", "--deepspeed", "ds.json")
    report = run_plan(tmp_path, *words)
    work = report["workload"]
    assert (work["micro_batch"], work["grad_accum"], work["precision"], work["overlap"]) == (2, 3, "bf16", False)
    assert (work["convention"], work["bucket"], work["secondary"]) == ("deepspeed", 1_000_000, 4)
    small = sum(tensor.size * tensor.times for tensor in models.find("gpt2").tensors if tensor.size < 1000)
    assert work["persistence"] == small > 0
    assert (report["deepspeed"]["stage"], report["deepspeed"]["offload"]) == (3, "optimizer:cpu")
    assert report["deepspeed"]["not_used"] == ["optimizer.params.lr", "wall_clock_breakdown"]
    assert run_plan(tmp_path, *words, "--precision", "fp16", "--grad-accum", "1")["workload"]["grad_accum"] == 1
    done = run_zerosim(0, "plan", *words, cwd=tmp_path)
    assert "3 *" in done.stdout
    assert "wall_clock_breakdown" in done.stdout


def test_bad_input_under_mpirun(tmp_path):
    """What the first rank alone finds out, all ranks hear of."""
    for words in (["--model", "none.json"], ["--model", "gpt2", "--gpus", "0"]):
        done = run_zerosim(3, "plan", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_sizes_without_end_are_planned(tmp_path):
    for words in (["--parameters", "1e24"], ["--layers", "100000000", "--hidden", "8", "--heads", "2"]):
        report = run_plan(tmp_path, *words, "--gpus", "1000000")
        assert report["plans"][0]["bytes"]["total"] > 0


def test_values_left_to_be_filled_in(tmp_path):
    """Hugging Face's "auto" is said to be open, and leaves the precision to the flags."""
    config = {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}, "bf16": {"enabled": "auto"}}
    (tmp_path / "auto.json").write_text(json.dumps(config))
    report = run_plan(tmp_path, "--model", "gpt2", "--gpus", "8", "--deepspeed", "auto.json")
    assert report["workload"]["precision"] == "bf16"
    assert report["deepspeed"]["auto"] == ["zero_optimization.reduce_bucket_size", "bf16.enabled"]
    config = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}, "bf16": {"enabled": True}}
    (tmp_path / "own.json").write_text(json.dumps(config))
    report = run_plan(tmp_path, "--model", "gpt2", "--gpus", "8", "--deepspeed", "own.json")
    found = [(one["stage"], one["offload"]) for one in report["plans"]]
    assert found.index((3, "parameters:cpu")) == found.index((3, "optimizer:cpu")) + 1


def test_deepspeeds_own_estimators(tmp_path):
    """T5-3B on a node of eight, as DeepSpeed's documentation prints it; stage 2 without offload as its code has it."""
    words = ("--model", "t5-3b", "--gpus", "8", "--convention", "deepspeed")
    found = run_plan(tmp_path, *words)["estimators"]
    gib = {name: (round(one["host"] / 2**30, 2), round(one["device"] / 2**30, 2)) for name, one in found.items()}
    assert gib == {
        "2, none": (127.48, 11.29),
        "2, optimizer:cpu": (127.48, 5.31),
        "3, none": (1.47, 6.10),
        "3, optimizer:cpu": (63.74, 0.79),
        "3, optimizer:cpu,parameters:cpu": (71.71, 0.12),
    }
    done = run_zerosim(0, "plan", *words, cwd=tmp_path)
    assert "DeepSpeed's own estimators" in done.stdout
    assert "estimators" not in run_plan(tmp_path, "--model", "t5-3b", "--gpus", "8")


def test_stage_1_both_ways(tmp_path):
    one, other = (
        plan(SUBJECTS[0], H100, Workload(gpus=8, reduce_scatter=way), 1, "none").traffic["data_parallel"]
        for way in (True, False)
    )
    assert other == pytest.approx(1.5 * one)
