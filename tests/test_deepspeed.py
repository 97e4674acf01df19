"""DeepSpeed's configurations: its documentation's files read, its batch rule, and what `train --config` makes of them.

The files are those of DeepSpeed's tutorials (ZeRO, ZeRO++), of its API documentation (zero3.rst) and of its pages on
the configuration (config-json.md), and Hugging Face's (tests/deepspeed in transformers).
"""

import dataclasses
import json

import pytest
from conftest import run_zerosim

from zerosim import deepspeed
from zerosim.config import Config, read_config_file
from zerosim.deepspeed import DeepSpeed
from zerosim.errors import InputError

FP16 = {"loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2, "min_loss_scale": 1}
FP16_NOT_USED = ("fp16.loss_scale_window", "fp16.hysteresis", "fp16.min_loss_scale")
CPU = {"device": "cpu", "pin_memory": True}

STAGE_1 = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 5e8}}
STAGE_2 = {
    "zero_optimization": {
        "stage": 2,
        "contiguous_gradients": True,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 5e8,
        "allgather_bucket_size": 5e8,
    }
}
STAGE_3 = {
    "zero_optimization": {"stage": 3},
    "fp16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 0.001, "betas": [0.8, 0.999], "eps": 1e-8, "weight_decay": 3e-7}},
}
TO_CPU = {
    "zero_optimization": {
        "stage": 3,
        "contiguous_gradients": True,
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_prefetch_bucket_size": 1e7,
        "stage3_param_persistence_threshold": 1e5,
        "reduce_bucket_size": 1e7,
        "sub_group_size": 1e9,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "cpu"},
    }
}
TO_NVME = {
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {
            "device": "nvme",
            "nvme_path": "/local_nvme",
            "pin_memory": True,
            "ratio": 0.3,
            "buffer_count": 4,
            "fast_init": False,
        },
        "offload_param": {"device": "nvme", "nvme_path": "/local_nvme", "buffer_size": 1e8, "max_in_cpu": 1e9},
    }
}
ZERO_PP = {
    "zero_optimization": {
        "stage": 3,
        "reduce_bucket_size": 10_000_000,
        "reduce_scatter": True,
        "zero_quantized_weights": True,
        "zero_hpz_partition_size": 8,
        "zero_quantized_gradients": True,
        "contiguous_gradients": True,
        "overlap_comm": True,
    }
}
HUGGING_FACE = {
    "fp16": {"enabled": "auto", **FP16},
    "bf16": {"enabled": "auto"},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_num_steps": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": CPU,
        "offload_param": CPU,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}


@pytest.fixture
def put(tmp_path):
    """Write a configuration, an object or text, and return its path."""

    def write(values):
        path = tmp_path / "ds.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return str(path)

    return write


def zero(stage, **keys):
    return {"zero_optimization": {"stage": stage, **keys}}


def one_line(caught, *words):
    line = str(caught.value)
    assert line.isprintable(), "one line"
    assert [word for word in words if word not in line] == [], line
    return line


# reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ({}, {}),
        (STAGE_1, {"stage": 1, "reduce_bucket_size": 500_000_000}),
        (STAGE_2, {"stage": 2, "overlap_comm": True}),
        (
            STAGE_3,
            {
                "stage": 3,
                "overlap_comm": True,
                "precision": "fp16",
                "optimizer": "adamw",
                "lr": 0.001,
                "betas": (0.8, 0.999),
                "eps": 1e-8,
                "weight_decay": 3e-7,
            },
        ),
        (
            TO_CPU,
            {
                "stage": 3,
                "overlap_comm": True,
                "prefetch_bucket_size": 10_000_000,
                "reduce_bucket_size": 10_000_000,
                "offload_optimizer": "cpu",
                "offload_param": "cpu",
            },
        ),
        (TO_NVME, {"stage": 3, "overlap_comm": True, "offload_optimizer": "nvme", "offload_param": "nvme"}),
        (
            ZERO_PP,
            {
                "stage": 3,
                "overlap_comm": True,
                "reduce_bucket_size": 10_000_000,
                "hpz_partition_size": 8,
                "quantized_weights": True,
                "quantized_gradients": True,
            },
        ),
        (
            HUGGING_FACE,
            {
                "stage": 3,
                "overlap_comm": True,
                "optimizer": "adamw",
                "offload_optimizer": "cpu",
                "offload_param": "cpu",
            },
        ),
        (zero(2, cpu_offload=True), {"stage": 2, "offload_optimizer": "cpu"}),
        (zero(3, cpu_offload_param=True), {"stage": 3, "overlap_comm": True, "offload_param": "cpu"}),
        (zero(3, overlap_comm=False), {"stage": 3}),
        (zero(0, offload_optimizer={"device": "none", "pin_memory": True}), {}),
        (zero(2, offload_param=None, overlap_comm=None), {"stage": 2}),
        (zero(3.0, zero_hpz_partition_size=0), {"stage": 3, "overlap_comm": True}),
        ({"bfloat16": {"enabled": True}}, {"precision": "bf16"}),
        ({"fp16": {"enabled": False}, "bf16": {"enabled": True}}, {"precision": "bf16"}),
        ({"fp16": {"enabled": True, **FP16}}, {"precision": "fp16"}),
        ({"gradient_clipping": 1}, {"clip_norm": 1}),
        ({"gradient_clipping": 0.0}, {}),
        ({"train_batch_size": 256, "gradient_accumulation_steps": 2.0}, {"train_batch_size": 256, "grad_accum": 2}),
        ({"train_micro_batch_size_per_gpu": 4}, {"micro_batch_size": 4}),
    ],
)
def test_reading(put, file, fields):
    """What the file says is said, in integers where elements are counted; all else has DeepSpeed's default."""
    path = put(file)
    settings = deepspeed.read(path)
    default = DeepSpeed(name=f"deepspeed {path}")
    lists = ("given", "auto", "not_used")
    assert settings == dataclasses.replace(default, **fields, **{name: getattr(settings, name) for name in lists})
    for field in dataclasses.fields(DeepSpeed):
        if field.type is int:
            assert type(getattr(settings, field.name)) is int


def test_defaults():
    """As in DeepSpeed's zero/config.py: sizes are elements."""
    assert deepspeed.understand({}, "deepspeed") == DeepSpeed()
    assert (DeepSpeed().reduce_bucket_size, DeepSpeed().allgather_bucket_size) == (5e8, 5e8)
    assert DeepSpeed().prefetch_bucket_size == 5e7
    assert DeepSpeed().persistence_threshold == 1e5
    assert DeepSpeed().max_live_parameters == 1e9
    assert (DeepSpeed().contiguous_gradients, DeepSpeed().reduce_scatter) == (True, True)
    assert DeepSpeed().hpz_partition_size == 1
    assert DeepSpeed().precision == "fp32"


@pytest.mark.parametrize(
    ("kind", "params", "optimizer"),
    [
        ("SGD", {"lr": 0.1}, "sgd"),
        ("SGD", {"momentum": 0}, "sgd"),
        ("SGD", {"momentum": 0.9}, "momentum"),
        ("Adam", {}, "adam"),
        ("Adam", {"weight_decay": 0.0}, "adam"),
        ("Adam", {"weight_decay": "auto"}, "adam"),
        ("Adam", {"weight_decay": 3e-7}, "adamw"),
        ("Adam", {"weight_decay": 3e-7, "adam_w_mode": True}, "adamw"),
        ("Adam", {"weight_decay": 3e-7, "adam_w_mode": False}, "adam"),
        ("AdamW", {}, "adamw"),
        ("AdamW", {"weight_decay": 0.1, "adam_w_mode": False}, "adamw"),
    ],
)
def test_optimizer(kind, params, optimizer):
    """DeepSpeed's Adam decays weights as AdamW does, unless it is told not to."""
    for name in (kind, kind.lower()):
        assert deepspeed.understand({"optimizer": {"type": name, "params": params}}, "x").optimizer == optimizer


def test_what_is_used_and_what_is_not(put):
    """Every key of the file is in one of the three lists, in the file's order."""
    settings = deepspeed.read(put(HUGGING_FACE))
    assert settings.given == (
        "fp16.loss_scale",
        "fp16.initial_scale_power",
        "optimizer.type",
        "zero_optimization.stage",
        "zero_optimization.offload_optimizer.device",
        "zero_optimization.offload_param.device",
        "zero_optimization.overlap_comm",
        "zero_optimization.contiguous_gradients",
        "zero_optimization.stage3_max_live_parameters",
    )
    assert settings.auto == (
        "fp16.enabled",
        "bf16.enabled",
        *(f"optimizer.params.{name}" for name in ("lr", "betas", "eps", "weight_decay")),
        "zero_optimization.reduce_bucket_size",
        "zero_optimization.stage3_prefetch_bucket_size",
        "zero_optimization.stage3_param_persistence_threshold",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
    )
    assert settings.not_used == (
        *FP16_NOT_USED,
        "scheduler",
        "zero_optimization.offload_optimizer.pin_memory",
        "zero_optimization.offload_param.pin_memory",
        "zero_optimization.sub_group_size",
        "zero_optimization.stage3_max_reuse_distance",
        "zero_optimization.stage3_gather_16bit_weights_on_model_save",
        "steps_per_print",
        "wall_clock_breakdown",
    )


@pytest.mark.parametrize(
    ("file", "not_used"),
    [
        ({"optimizer": {"type": "Adam", "params": {"lr": 1, "momentum": 0.9}}}, ["optimizer.params.momentum"]),
        ({"optimizer": {"type": "SGD", "params": {"betas": 3}}}, ["optimizer.params.betas"]),
        ({"optimizer": {"type": "SGD", "legacy_fusion": True}}, ["optimizer.legacy_fusion"]),
        ({"optimizer": {"params": {"lr": 0.1}}}, ["optimizer.params.lr"]),
        ({"optimizer": {"type": "AdamW", "params": {"adam_w_mode": False}}}, ["optimizer.params.adam_w_mode"]),
        ({"bfloat16": {"enabled": True}, "bf16": {"enabled": False}}, ["bfloat16.enabled"]),
        ({"zero_optimization.stage": 3, "a\nb": 1}, ['"zero_optimization.stage"', '"a\\nb"']),
        ({"amp": {"enabled": True, "opt_level": "O1"}}, ["amp"]),
        ({"train_batch_size": None, "zero_optimization": None, "scheduler": None}, ["scheduler"]),
    ],
)
def test_keys_without_effect(file, not_used):
    settings = deepspeed.understand(file, "x")
    assert list(settings.not_used) == not_used
    assert (settings.precision, settings.stage) == ("fp32", 0)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("{", ["not JSON"]),
        ("[]", ["one JSON object"]),
        ({"train_batch_size": 0}, ["train_batch_size is 0", "whole number, 1 or more"]),
        ({"train_batch_size": "32"}, ['train_batch_size is "32"']),
        ({"train_micro_batch_size_per_gpu": 1.5}, ["train_micro_batch_size_per_gpu is 1.5"]),
        ({"gradient_accumulation_steps": True}, ["gradient_accumulation_steps is true"]),
        ({"gradient_clipping": -1}, ["gradient_clipping is -1", "0 or more"]),
        ('{"gradient_clipping": NaN}', ["gradient_clipping is NaN"]),
        ('{"gradient_clipping": 1' + 400 * "0" + "}", ["gradient_clipping is 10", "..."]),
        ({"fp16": True}, ["fp16 is true", "an object"]),
        ({"fp16": {"enabled": 1}}, ["fp16.enabled is 1", "true or false"]),
        ({"bfloat16": {"enabled": "yes"}}, ['bfloat16.enabled is "yes"']),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, ["fp16.enabled", "bf16.enabled", "both"]),
        ({"fp16": {"enabled": True, "loss_scale": -1}}, ["fp16.loss_scale is -1"]),
        ({"optimizer": ["Adam"]}, ['optimizer is ["Adam"]', "an object"]),
        ({"optimizer": {"type": "Lamb"}}, ['optimizer.type is "Lamb"', "Adam, AdamW or SGD"]),
        ({"optimizer": {"type": ["Adam"]}}, ['optimizer.type is ["Adam"]']),
        ({"optimizer": {"type": "Adam", "params": []}}, ["optimizer.params is []"]),
        ({"optimizer": {"type": "Adam", "params": {"lr": -1}}}, ["optimizer.params.lr is -1"]),
        ({"optimizer": {"type": "Adam", "params": {"betas": 0.9}}}, ["optimizer.params.betas is 0.9", "two"]),
        ({"optimizer": {"type": "Adam", "params": {"betas": [0.9, 1]}}}, ["betas is [0.9, 1]", "below 1"]),
        ({"optimizer": {"type": "SGD", "params": {"momentum": "x" * 99}}}, ["momentum is", "..."]),
        ({"zero_optimization": True}, ["zero_optimization is true", "an object"]),
        (zero(4), ["zero_optimization.stage is 4", "0, 1, 2 or 3"]),
        (zero(True), ["zero_optimization.stage is true"]),
        (zero("2"), ['zero_optimization.stage is "2"']),
        (zero(2, reduce_bucket_size=-5), ["zero_optimization.reduce_bucket_size is -5"]),
        (zero(2, allgather_bucket_size=1e-3), ["zero_optimization.allgather_bucket_size is 0.001"]),
        (zero(2, reduce_bucket_size="5e8"), ["zero_optimization.reduce_bucket_size"]),
        ('{"zero_optimization": {"reduce_bucket_size": Infinity}}', ["reduce_bucket_size is Infinity"]),
        (zero(2, overlap_comm="true"), ["zero_optimization.overlap_comm"]),
        (zero(2, offload_optimizer="cpu"), ["zero_optimization.offload_optimizer", "an object"]),
        (zero(2, offload_optimizer={"device": "gpu"}), ['zero_optimization.offload_optimizer.device is "gpu"', "nvme"]),
        (zero(2, offload_optimizer={"devise": "cpu"}), ["zero_optimization.offload_optimizer has no device"]),
        (zero(3, offload_param={}), ["zero_optimization.offload_param has no device"]),
        (zero(2, cpu_offload=True, offload_optimizer=CPU), ["zero_optimization.cpu_offload", "give one"]),
        (zero(0, offload_optimizer=CPU), ["offload_optimizer", "needs zero_optimization.stage 1 or more", "is 0"]),
        (
            zero(2, offload_optimizer={"device": "nvme"}),
            ['zero_optimization.offload_optimizer.device "nvme"', "stage 3", "is 2"],
        ),
        (zero(2, offload_param=CPU), ["zero_optimization.offload_param", "stage 3"]),
        (zero(2, cpu_offload_param=True), ["zero_optimization.cpu_offload_param", "stage 3"]),
        (zero(2, zero_hpz_partition_size=8), ["zero_optimization.zero_hpz_partition_size", "stage 3"]),
        (zero(1, zero_quantized_weights=True), ["zero_optimization.zero_quantized_weights", "stage 3"]),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, ["zero_quantized_gradients", "stage 3", "is 0"]),
    ],
)
def test_bad_file(put, file, words):
    path = put(file)
    with pytest.raises(InputError) as caught:
        deepspeed.read(path)
    assert one_line(caught, *words).startswith(f"deepspeed {path}: ")
    with pytest.raises(InputError):
        Config(**read_config_file(path, 4))


def test_missing_file(tmp_path):
    with pytest.raises(InputError) as caught:
        deepspeed.read(str(tmp_path / "no.json"))
    one_line(caught, "no.json", "cannot be read")


# batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "micro", "accumulation", "filled"),
    [
        (96, 4, 3, (96, 4, 3)),
        (96, 4, None, (96, 4, 3)),
        (96, None, 3, (96, 4, 3)),
        (None, 4, 3, (96, 4, 3)),
        (96, None, None, (96, 12, 1)),
        (None, 4, None, (32, 4, 1)),
    ],
)
def test_batch(total, micro, accumulation, filled):
    settings = DeepSpeed(train_batch_size=total, micro_batch_size=micro, grad_accum=accumulation)
    assert deepspeed.batch(settings, 8) == filled
    if micro is None or total is None:
        assert deepspeed.batch(settings, 1)[1] == (micro or total // (accumulation or 1))


@pytest.mark.parametrize("accumulation", [None, 3])
def test_batch_of_nothing(accumulation):
    """The seventh combination, and none at all."""
    with pytest.raises(InputError) as caught:
        deepspeed.batch(DeepSpeed(grad_accum=accumulation), 8)
    one_line(caught, "train_batch_size or train_micro_batch_size_per_gpu must be given")


@pytest.mark.parametrize(
    ("total", "micro", "accumulation", "words"),
    [
        (96, 4, 2, ["train_batch_size 96", "per_gpu 4,", "steps 2 and", "8 ranks", "which is 64"]),
        (90, 4, None, ["train_batch_size 90", "per_gpu 4,", "steps 2 (filled in)", "8 ranks", "which is 64"]),
        (90, None, 3, ["train_batch_size 90", "per_gpu 3 (filled in)", "steps 3 and", "8 ranks", "which is 72"]),
        (4, None, None, ["train_batch_size 4", "per_gpu 0 (filled in)", "steps 1 (filled in)", "8 ranks", "is 0"]),
    ],
)
def test_batch_that_does_not_fit(total, micro, accumulation, words):
    with pytest.raises(InputError) as caught:
        deepspeed.batch(DeepSpeed("here", total, micro, accumulation), 8)
    assert one_line(caught, *words).startswith("here: ")


# training ------------------------------------------------------------------------------------------------------------

ADAM = {"type": "Adam", "params": {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8}}
SAME = {  # what a run does anyway
    "overlap_comm": False,
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 1e3,
    "allgather_bucket_size": 1e3,
    "stage3_prefetch_bucket_size": 0,
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": 0,
    "offload_optimizer": {"device": "none", "pin_memory": True, "nvme_path": None},
    "offload_param": {"device": "none"},
    "cpu_offload_param": None,
    "zero_hpz_partition_size": 1,
    "zero_quantized_weights": False,
    "zero_quantized_gradients": False,
}


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ({}, {}),
        (STAGE_1, {"stages": [1], "bucket": 500_000_000}),
        (zero(3, **SAME), {"stages": [3], "bucket": 1000}),
        (zero(0, reduce_scatter=False), {"stages": [0]}),
        (zero(2, contiguous_gradients=False, cpu_offload=False), {"stages": [2]}),
        ({"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}}, {"precision": "fp16"}),
        ({"bfloat16": {"enabled": True}}, {"precision": "bf16"}),
        ({"fp16": {"enabled": False}, "bf16": {"enabled": False}}, {"precision": "fp32"}),
        ({"gradient_clipping": 0}, {"clip_norm": None}),
        ({"gradient_clipping": 0.5, "steps": 3}, {"clip_norm": 0.5, "steps": 3}),
        ({"optimizer": ADAM}, {"optimizer": "adam", "lr": 0.01}),
        ({"optimizer": {"type": "SGD", "params": {"momentum": 0.9}}}, {"optimizer": "momentum"}),
        ({"optimizer": {"type": "sgd", "params": {"momentum": 0, "weight_decay": 1}}}, {"weight_decay": 1}),
        ({"optimizer": {"type": "Adam", "params": {"weight_decay": 0.1}}}, {"optimizer": "adamw", "weight_decay": 0.1}),
        ({"train_batch_size": 33, "gradient_accumulation_steps": 2}, {"batch_size": 33, "grad_accum": 2}),
        ({"train_micro_batch_size_per_gpu": 4}, {"batch_size": 16, "grad_accum": 1}),
        ({"train_micro_batch_size_per_gpu": 4, "train_batch_size": 32}, {"batch_size": 32, "grad_accum": 2}),
        ({"train_micro_batch_size_per_gpu": 4, "grad_accum": 3, "batch_size": 48}, {"batch_size": 48}),
    ],
)
def test_what_can_be_trained(put, file, settings):
    found = read_config_file(put(file), 4)
    assert found | settings == found
    assert Config(**found)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (STAGE_2, ["zero_optimization.overlap_comm: true", "only false", "in turn", "plan --deepspeed FILE"]),
        (STAGE_3, ["optimizer.params.betas: [0.8, 0.999]", "only [0.9, 0.999]"]),
        (TO_CPU, ["stage3_max_live_parameters: 1000000000", "only 0"]),
        (TO_NVME, ['zero_optimization.offload_optimizer.device: "nvme"', "does not offload", "plan --deepspeed"]),
        (ZERO_PP, ["zero_optimization.zero_quantized_weights: true", "does not quantize", "plan --deepspeed"]),
        (HUGGING_FACE, ['fp16.enabled is "auto"', "give true or false"]),
        ({"train_batch_size": "auto"}, ['train_batch_size is "auto"', "give a whole number"]),
        ({"zero_optimization": "auto"}, ['zero_optimization is "auto"', "give an object"]),
        (zero(2, offload_optimizer=CPU), ['zero_optimization.offload_optimizer.device: "cpu"', "does not offload"]),
        (zero(2, cpu_offload=True), ["zero_optimization.cpu_offload", "does not offload"]),
        (zero(3, offload_param=CPU), ["zero_optimization.offload_param", "does not offload"]),
        (zero(3, zero_hpz_partition_size=8), ["zero_hpz_partition_size: 8", "second copy"]),
        (zero(3, zero_quantized_gradients=True), ["zero_optimization.zero_quantized_gradients: true"]),
        (zero(3, stage3_prefetch_bucket_size=5e7), ["stage3_prefetch_bucket_size: 50000000", "only 0"]),
        (zero(3, stage3_param_persistence_threshold=1), ["stage3_param_persistence_threshold: 1", "only 0"]),
        (zero(1, reduce_scatter=False), ["zero_optimization.reduce_scatter: false", "only true"]),
        ({"zero_optimization": {"reduce_scatter": False}}, ["reduce_scatter: false"]),
        (zero(2, allgather_bucket_size=2e8), ["allgather_bucket_size: 200000000", "only 0"]),
        (zero(2, reduce_bucket_size=9, allgather_bucket_size=8), ["allgather_bucket_size: 8", "only 9"]),
        ({"fp16": {"enabled": True, "loss_scale": 128}}, ["fp16.loss_scale: 128", "dynamic"]),
        ({"fp16": {"initial_scale_power": 32}}, ["fp16.initial_scale_power: 32", "only 16"]),
        ({"optimizer": {"type": "SGD", "params": {"momentum": 0.8}}}, ["optimizer.params.momentum: 0.8", "only 0.9"]),
        ({"optimizer": {"type": "Adam", "params": {"eps": 1e-6}}}, ["optimizer.params.eps: 1e-06", "only 1e-08"]),
        ({"optimizer": {"type": "Adam", "params": {"momentum": 0.9}}}, ["optimizer.params.momentum has no effect"]),
        ({"optimizer": {"type": "SGD", "params": {"nesterov": True}}}, ["'optimizer.params.nesterov' is not under"]),
        ({"fp16": {"enabled": True, "hysteresis": 2}}, ["'fp16.hysteresis'", "known are enabled, loss_scale"]),
        (zero(2, sub_group_size=1e9), ["'zero_optimization.sub_group_size'", "known are stage, reduce_bucket_size"]),
        ({"wall_clock_breakdown": False}, ["'wall_clock_breakdown'", "known are stage, stages", "fp16"]),
        ({"train_batch_size": 32, "batch_size": 16}, ["train_batch_size gives batch_size = 32", "16"]),
        ({"stage": 1, **zero(2)}, ["zero_optimization.stage gives stages = [2]", "[1]"]),
        ({"precision": "bf16", "fp16": {"enabled": True}}, ["fp16 gives precision = 'fp16'", "'bf16'"]),
        ({"train_micro_batch_size_per_gpu": 4, "train_batch_size": 30}, ["train_batch_size 30", "4 ranks"]),
        ({"train_micro_batch_size_per_gpu": 4, "grad_accum": "2"}, ["grad_accum: '2'"]),
    ],
)
def test_what_cannot_be_trained(put, file, words):
    path = put(file)
    with pytest.raises(InputError) as caught:
        read_config_file(path, 4)
    assert one_line(caught, *words).startswith(f"config {path}: ")


def test_training_with_a_file(tmp_path, put):
    """A whole file of DeepSpeed's, all of which can be done, on two ranks; what was done is what it says."""
    file = {
        "train_micro_batch_size_per_gpu": 4,
        "train_batch_size": 16,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "optimizer": ADAM,
        **zero(3, **SAME),
    }
    done = run_zerosim(2, "--config", put(file), "--steps", 2, "--hidden", 8, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    expected = {"batch_size": 16, "grad_accum": 2, "clip_norm": 1.0, "precision": "bf16", "optimizer": "adam"}
    expected |= {"lr": 0.01, "stages": [3], "bucket": 1000}
    assert {name: report["config"][name] for name in expected} == expected
    assert [run["stage"] for run in report["runs"]] == [3]


@pytest.mark.parametrize(("file", "word"), [(ZERO_PP, "zero_quantized_weights"), (HUGGING_FACE, '"auto"')])
def test_refused_on_the_command_line(tmp_path, put, file, word):
    done = run_zerosim(2, "--config", put(file), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("zerosim: config ")
    assert word in done.stderr
