"""Every parameter counted: real config.json files and presets against the published counts of the checkpoints."""

import json

import pytest

from zerosim import models
from zerosim.errors import InputError

# what the files say, with the keys that no count depends on ----------------------------------------------------------

GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
GPT2_XL = {**GPT2, "n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True}

LLAMA_2_7B = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
LLAMA_2_13B = {
    **LLAMA_2_7B,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
}
LLAMA_2_70B = {
    **LLAMA_2_7B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
}
LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
LLAMA_3_70B = {
    **LLAMA_3_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}
LLAMA_3_405B = {
    **LLAMA_3_8B,
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 128,
    "num_hidden_layers": 126,
    "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}
LLAMA_32_3B = {
    **LLAMA_3_8B,
    "head_dim": 128,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_hidden_layers": 28,
    "tie_word_embeddings": True,
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
MISTRAL_NEMO = {
    **MISTRAL,
    "head_dim": 128,
    "hidden_size": 5120,
    "max_position_embeddings": 128000,
    "num_hidden_layers": 40,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "vocab_size": 131072,
}
MIXTRAL = {
    **MISTRAL,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "transformers_version": "4.36.0.dev0",
}
QWEN2_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.37.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN2_HALF_B = {
    **QWEN2_7B,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_4B = {**QWEN3_8B, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
BERT = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
BERT_LARGE = {
    **BERT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}
T5_SMALL = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"early_stopping": True, "prefix": "summarize: "}},
    "vocab_size": 32128,
}
T5_BASE = {
    **T5_SMALL,
    "d_ff": 3072,
    "d_model": 768,
    "feed_forward_proj": "relu",
    "num_decoder_layers": 12,
    "num_heads": 12,
    "num_layers": 12,
}
T5_LARGE = {**T5_SMALL, "d_ff": 4096, "d_model": 1024, "num_heads": 16, "num_layers": 24}
T5_3B = {**T5_LARGE, "d_ff": 16384, "d_kv": 128, "num_heads": 32}
T5_11B = {**T5_LARGE, "d_ff": 65536, "d_kv": 128, "num_heads": 128}
T5_V11_SMALL = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 1024,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 8,
    "num_heads": 6,
    "num_layers": 8,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32128,
}
T5_V11_XL = {
    **T5_V11_SMALL,
    "d_ff": 5120,
    "d_model": 2048,
    "num_decoder_layers": 24,
    "num_heads": 32,
    "num_layers": 24,
}

# the preset if there is one, the file, the parameters of its checkpoint
PUBLISHED = {
    "gpt2": (GPT2, 124_439_808),
    "gpt2-xl": (GPT2_XL, 1_557_611_200),
    "llama-2-7b": (LLAMA_2_7B, 6_738_415_616),
    "llama-2-13b": (LLAMA_2_13B, 13_015_864_320),
    "llama-2-70b": (LLAMA_2_70B, 68_976_648_192),
    "llama-3-8b": (LLAMA_3_8B, 8_030_261_248),
    "llama-3-70b": (LLAMA_3_70B, 70_553_706_496),
    "llama-3.1-405b": (LLAMA_3_405B, 405_853_388_800),
    "Llama-3.2-3B": (LLAMA_32_3B, 3_212_749_824),
    "mistral-7b": (MISTRAL, 7_241_732_096),
    "Mistral-Nemo": (MISTRAL_NEMO, 12_247_782_400),
    "mixtral-8x7b": (MIXTRAL, 46_702_792_704),
    "qwen2-7b": (QWEN2_7B, 7_615_616_512),
    "Qwen2-0.5B": (QWEN2_HALF_B, 494_032_768),
    "Qwen3-4B": (QWEN3_4B, 4_022_468_096),
    "Qwen3-8B": (QWEN3_8B, 8_190_735_360),
    "bert-base": (BERT, 109_482_240),
    "bert-large": (BERT_LARGE, 335_141_888),
    "t5-small": (T5_SMALL, 60_506_624),
    "t5-base": (T5_BASE, 222_903_552),
    "t5-large": (T5_LARGE, 737_668_096),
    "t5-3b": (T5_3B, 2_851_598_336),
    "t5-11b": (T5_11B, 11_307_321_344),
    "t5-v1_1-small": (T5_V11_SMALL, 76_961_152),
    "t5-v1_1-xl": (T5_V11_XL, 2_849_757_184),
}


@pytest.fixture
def load(tmp_path):
    """Write a config.json and return its model."""

    def load(config, *without, **changes):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({k: v for k, v in {**config, **changes}.items() if k not in without}, indent=2))
        return models.from_config(str(path))

    return load


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_count(load, name):
    config, parameters = PUBLISHED[name]
    model = load(config)
    assert model.parameters == parameters
    if name in models.PRESETS:
        preset = models.PRESETS[name]
        assert preset.tensors == model.tensors
        for field in (
            "parameters",
            "layers",
            "hidden",
            "heads",
            "kv_heads",
            "ffn",
            "vocab",
            "seq",
            "experts_per_token",
        ):
            assert getattr(preset, field) == getattr(model, field), field


def test_presets_without_a_file():
    """Published to two digits only, but for GPT-3's count as GPT-2's architecture."""
    assert models.find("gpt3-175b").parameters == 174_604_259_328
    assert round(models.find("turing-nlg-17b").parameters / 1e9) == 17
    assert round(models.find("mt-nlg-530b").parameters / 1e9) == 530


def everything():
    yield from models.PRESETS.values()
    yield models.from_shape(2, 8, vocab=11, seq=5)
    yield models.from_shape(1, 1, heads=1, vocab=1, seq=1, ffn=1)


@pytest.mark.parametrize("model", [*everything()], ids=lambda model: model.name)
def test_properties(model):
    assert model.parameters == sum(t.size * t.times for t in model.tensors)
    assert all(t.name.count("*") == len(t.copies) and 1 <= t.used <= t.times for t in model.tensors)
    assert len({t.name for t in model.tensors}) == len(model.tensors)
    assert 0 < model.largest_module <= model.largest_block <= model.parameters
    assert (model.active_parameters < model.parameters) == (model.experts is not None)
    assert model.source


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("gpt2", 148),
        ("llama-2-7b", 291),
        ("mixtral-8x7b", 995),
        ("qwen2-7b", 339),
        ("bert-base", 199),
        ("t5-large", 509),
    ],
)
def test_as_many_tensors_as_in_the_checkpoint(name, tensors):
    assert sum(t.times for t in models.find(name).tensors) == tensors


def test_names_and_shapes_of_the_checkpoint():
    tensors = {t.name: t for t in models.find("qwen2-7b").tensors}
    assert tensors["model.layers.*.self_attn.k_proj.weight"][1:3] == ((512, 3584), (28,))
    assert tensors["model.layers.*.self_attn.k_proj.bias"].shape == (512,)
    assert "model.layers.*.self_attn.o_proj.bias" not in tensors
    expert = {t.name: t for t in models.find("mixtral-8x7b").tensors}[
        "model.layers.*.block_sparse_moe.experts.*.w2.weight"
    ]
    assert (expert.shape, expert.copies, expert.times, expert.used) == ((4096, 14336), (32, 8), 256, 64)


def test_gpt2_by_hand():
    L, h, V, s = 12, 768, 50257, 1024
    attention = (h * 3 * h + 3 * h) + (h * h + h)
    feed_forward = (h * 4 * h + 4 * h) + (4 * h * h + h)
    total = V * h + s * h + L * (2 * h + attention + 2 * h + feed_forward) + 2 * h
    assert total == L * (12 * h**2 + 13 * h) + (V + s + 2) * h == 124_439_808
    model = models.find("gpt2")
    assert (
        model.parameters == models.from_shape(L, h).parameters == models.from_shape(L, h, heads=12).parameters == total
    )
    assert model.largest_module == model.largest_block == V * h


def test_largest():
    """Of T5-3B as in DeepSpeed's documents; where the blocks are larger than the embedding, with what block 0 adds."""
    t5 = models.find("t5-3b")
    assert t5.largest_module == 32_899_072 == 32128 * 1024
    attention, norms, buckets = 4 * 1024 * 4096, 3 * 1024, 32 * 32
    assert t5.largest_block == 2 * attention + 2 * 1024 * 16384 + norms + buckets
    llama = models.find("llama-2-70b")
    assert llama.largest_module == 32000 * 8192
    assert llama.largest_block == 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    mlp = models.from_shape(1, 100, vocab=10, seq=10)
    assert mlp.largest_module == 100 * 400 + 400  # with its bias


def test_active_parameters():
    mixtral = models.find("mixtral-8x7b")
    assert (mixtral.experts, mixtral.experts_per_token) == (8, 2)
    assert mixtral.parameters - mixtral.active_parameters == 32 * 6 * 3 * 4096 * 14336
    assert round(mixtral.active_parameters / 1e9, 1) == 12.9  # the paper says 13B
    assert models.find("gpt2").active_parameters == 124_439_808


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_defaults(load, kind):
    """A file of one key is the model that its configuration class makes without arguments."""
    expected = {
        "gpt2": 124_439_808,
        "llama": 6_738_415_616,
        "mistral": 7_241_732_096,
        "mixtral": 46_702_792_704,
        "bert": 109_482_240,
        "t5": 60_506_624,
        "qwen2": 2 * 151936 * 4096 + 4096 + 32 * (4 * 4096**2 + 3 * 4096 + 3 * 4096 * 22016 + 2 * 4096),
        "qwen3": 2 * 151936 * 4096 + 4096 + 32 * (4 * 4096**2 + 2 * 128 + 3 * 4096 * 22016 + 2 * 4096),
    }
    assert load({"model_type": kind}).parameters == expected[kind]


@pytest.mark.parametrize(
    ("config", "changes", "difference"),
    [
        (GPT2, {"n_inner": None}, 0),
        (GPT2, {"n_inner": 1000}, 12 * (1000 - 3072) * (2 * 768 + 1)),
        (GPT2, {"tie_word_embeddings": False}, 50257 * 768),
        (GPT2, {"n_positions": 2048}, 1024 * 768),
        (LLAMA_2_7B, {"attention_bias": True}, 32 * 4 * 4096),
        (LLAMA_2_7B, {"mlp_bias": True}, 32 * (2 * 11008 + 4096)),
        (LLAMA_2_7B, {"tie_word_embeddings": True}, -32000 * 4096),
        (LLAMA_2_7B, {"num_key_value_heads": None}, 0),
        (LLAMA_2_7B, {"num_key_value_heads": 1}, -32 * 2 * 4096 * 31 * 128),
        (LLAMA_2_7B, {"head_dim": 64}, -32 * 4 * 4096 * 2048),
        (LLAMA_2_7B, {"max_position_embeddings": 10**6}, 0),
        (MISTRAL, {"num_key_value_heads": None}, 32 * 2 * 4096 * 3072),
        (QWEN3_8B, {"attention_bias": True}, 36 * (2 * 4096 + 2 * 1024)),
        (BERT, {"type_vocab_size": 1}, -768),
        (BERT, {"pruned_heads": {}, "add_cross_attention": False, "architectures": ["BertForTokenClassification"]}, 0),
        (T5_SMALL, {"relative_attention_num_buckets": 64}, 2 * 32 * 8),
        (T5_SMALL, {"num_decoder_layers": 7}, 8 * 512 * 512 + 2 * 512 * 2048 + 3 * 512),
        (T5_SMALL, {"feed_forward_proj": "gated-silu"}, 12 * 512 * 2048),
        (T5_SMALL, {"tie_word_embeddings": False}, 32128 * 512),
        (MIXTRAL, {"num_local_experts": 9}, 32 * (3 * 4096 * 14336 + 4096)),
        (MIXTRAL, {"num_experts_per_tok": 1}, 0),
    ],
)
def test_what_a_key_changes(load, config, changes, difference):
    assert load(config, **changes).parameters - load(config).parameters == difference


def test_other_names_of_a_size(load):
    plain = load(GPT2_XL)
    mapped = {"num_hidden_layers": 48, "hidden_size": 1600, "num_attention_heads": 25, "max_position_embeddings": 1024}
    assert load(GPT2_XL, "n_layer", "n_embd", "n_head", "n_positions", **mapped).tensors == plain.tensors
    assert load(GPT2_XL, **mapped).tensors == plain.tensors
    with pytest.raises(InputError, match="n_embd and hidden_size are two names of one size and differ"):
        load(GPT2_XL, hidden_size=768)


def test_sizes(load):
    t5 = load(T5_BASE, num_decoder_layers=3)
    assert (t5.layers, t5.hidden, t5.heads, t5.kv_heads, t5.ffn, t5.vocab, t5.seq) == (
        15,
        768,
        12,
        12,
        3072,
        32128,
        512,
    )
    assert load(T5_V11_XL).seq is None
    assert (load(GPT2).ffn, load(GPT2, n_inner=7).ffn) == (3072, 7)
    shape = models.from_shape(2, 64)
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.ffn) == (2, 64, None, None, 256)
    assert (shape.vocab, shape.seq) == (50257, 1024)


def test_from_count():
    model = models.from_count(7.5e9)
    assert (model.parameters, model.active_parameters) == (7_500_000_000, 7_500_000_000)
    assert isinstance(model.parameters, int)
    for field in ("tensors", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq"):
        assert getattr(model, field) is None
    assert model.largest_module is None
    assert model.largest_block is None


def test_find(tmp_path):
    assert models.find("Llama-2-7B") is models.PRESETS["llama-2-7b"]
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    for path in (tmp_path, tmp_path / "config.json"):
        assert models.find(str(path)).parameters == 109_482_240
    assert models.find(str(tmp_path)).name == str(tmp_path / "config.json")


# what cannot be ------------------------------------------------------------------------------------------------------


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (GPT2, {"model_type": "opt"}, ['model_type "opt" is not known', "gpt2, llama, mistral"]),
        (GPT2, {"model_type": ["gpt2"]}, ["model_type", "is not known"]),
        (GPT2, {"n_layer": -1}, ["n_layer is -1; it must be a whole number from 1"]),
        (GPT2, {"n_head": 0}, ["n_head is 0;"]),
        (GPT2, {"n_head": 7}, ["n_head is 7; it must divide n_embd, which is 768"]),
        (GPT2, {"vocab_size": True}, ["vocab_size is true;"]),
        (GPT2, {"n_embd": 768.0}, ["n_embd is 768.0;"]),
        (GPT2, {"n_embd": "768"}, ['n_embd is "768";']),
        (GPT2, {"n_embd": None}, ["n_embd is null;"]),
        (GPT2, {"n_embd": 10**12}, ["n_embd is 1000000000000;"]),
        (GPT2, {"n_embd": float("nan")}, ["n_embd is NaN;"]),
        (GPT2, {"n_positions": "a\nb"}, ["n_positions is "]),
        (GPT2, {"tie_word_embeddings": 1}, ["tie_word_embeddings is 1; it must be true or false"]),
        (GPT2, {"add_cross_attention": True}, ["add_cross_attention is true; only false can be counted"]),
        (BERT, {"position_embedding_type": "relative_key"}, ["position_embedding_type", 'only "absolute"']),
        (BERT, {"num_attention_heads": 5}, ["num_attention_heads is 5; it must divide hidden_size, which is 768"]),
        (LLAMA_3_8B, {"num_key_value_heads": 64}, ["num_key_value_heads is 64; it must divide num_attention_heads"]),
        (LLAMA_3_8B, {"num_key_value_heads": 5}, ["num_key_value_heads is 5; it must divide num_attention_heads"]),
        (LLAMA_3_8B, {"num_key_value_heads": 0}, ["num_key_value_heads is 0;"]),
        (LLAMA_3_8B, {"head_dim": 0}, ["head_dim is 0;"]),
        (MIXTRAL, {"num_experts_per_tok": 9}, ["num_experts_per_tok is 9; it must be at most num_local_experts"]),
        (T5_SMALL, {"d_kv": False}, ["d_kv is false;"]),
        (T5_SMALL, {"feed_forward_proj": "gelu-gated"}, ['feed_forward_proj is "gelu-gated";']),
    ],
)
def test_bad_file(load, tmp_path, config, changes, words):
    with pytest.raises(InputError) as caught:
        load(config, **changes)
    assert one_line(caught, *words).startswith(f"model {tmp_path / 'config.json'}: ")


def test_missing_model_type(load):
    with pytest.raises(InputError) as caught:
        load(GPT2, "model_type")
    one_line(caught, "it lacks model_type; known are gpt2, llama, mistral, qwen2, qwen3, t5, bert, mixtral")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model_type": "gpt2",\n "n_embd": 768,,}', ["not JSON", "line 2 column 16"]),
        ("", ["not JSON", "line 1 column 1"]),
        ("[]", ["it must hold one JSON object"]),
    ],
)
def test_malformed_file(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError) as caught:
        models.find(str(tmp_path))
    assert one_line(caught, *words).startswith(f"model {tmp_path / 'config.json'}: ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-22", ["'gpt-22' is not known; close to it: gpt2", "the path of a config.json works too"]),
        ("meta-llama/Llama-2-7b-hf", ["close to it: llama-2-7b"]),
        ("zzz", ["known are gpt2,", "t5-11b"]),
        ("", ["'' is not known"]),
        ("a\nb", [r"'a\nb' is not known"]),
        ("nowhere/config.json", ["model nowhere/config.json: cannot be read (No such file or directory)"]),
    ],
)
def test_unknown_name(name, words):
    with pytest.raises(InputError) as caught:
        models.find(name)
    one_line(caught, *words)


def test_folder_without_a_file(tmp_path):
    with pytest.raises(InputError) as caught:
        models.find(str(tmp_path))
    one_line(caught, f"model {tmp_path / 'config.json'}: cannot be read (No such file or directory)")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"layers": 0, "hidden": 8}, ["model: layers is 0; it must be a whole number from 1"]),
        ({"layers": 1, "hidden": -8}, ["model: hidden is -8;"]),
        ({"layers": 1, "hidden": 8.5}, ["model: hidden is 8.5;"]),
        ({"layers": True, "hidden": 8}, ["model: layers is true;"]),
        ({"layers": 1, "hidden": 8, "heads": 3}, ["model: heads is 3; it must divide hidden, which is 8"]),
        ({"layers": 1, "hidden": 8, "vocab": None}, ["model: vocab is null;"]),
    ],
)
def test_bad_shape(sizes, words):
    with pytest.raises(InputError) as caught:
        models.from_shape(**sizes)
    one_line(caught, *words)


@pytest.mark.parametrize("count", [0, -1, 0.5, 1.5, True, "7e9", None, float("nan"), float("inf"), 10**400])
def test_bad_count(count):
    with pytest.raises(InputError) as caught:
        models.from_count(count)
    one_line(caught, "parameters cannot be; give a whole number from 1")
