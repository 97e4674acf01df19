"""Transformers as lists of shapes, so that every parameter is counted: a small atlas of architectures.

Each architecture is a generator of the tensors in its checkpoint, under the checkpoint's own names, with * where layers
repeat. Its arguments are sizes in this module's words, with the defaults of the `transformers` configuration classes;
`KEYS` says what a Hugging Face config.json calls them. Nothing here knows of precision, optimizers or ranks: what a
model needs in memory is for others to say.
"""

import difflib
import inspect
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from zerosim.errors import InputError
from zerosim.jsonfile import read_json
from zerosim.words import counted

LARGEST_SIZE = 10**9
"""A size beyond it was mistyped, and products of a few must fit a float."""


class Tensor(NamedTuple):
    """Tensors of one shape that repeat. A linear layer's weight is (out, in), also where GPT-2 keeps its transpose."""

    name: str
    """As in the checkpoint, with * for the number of the layer, or of the expert."""
    shape: tuple[int, ...]
    copies: tuple[int, ...] = ()
    """How often it repeats, for each * in the name: layers, experts in a layer."""
    used: int = 1
    """How many of all its copies a token meets; all of them but for experts."""

    @property
    def times(self) -> int:
        """How many such tensors there are."""
        return math.prod(self.copies)

    @property
    def size(self) -> int:
        """Parameters of one of them."""
        return math.prod(self.shape)

    @property
    def module(self) -> str:
        """The nn.Linear, nn.Embedding or norm it belongs to: a weight and its bias share one."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Model:
    """A transformer network: its parameters, exactly, and the sizes that memory and time depend on.

    What is not known is None; where only a number of parameters is known, that is all but `active_parameters`.
    """

    name: str
    source: str
    """Where its sizes stand."""
    parameters: int
    """All parameters; tensors that are shared, such as tied embeddings, count once."""
    tensors: tuple[Tensor, ...] | None = None
    layers: int | None = None
    """Transformer blocks in all, the encoder's and the decoder's together."""
    hidden: int | None = None
    heads: int | None = None
    """Heads of queries."""
    kv_heads: int | None = None
    """Heads of keys and values: fewer than `heads` in grouped-query attention, else as many."""
    head_dim: int | None = None
    """Width of a head."""
    gated: bool = False
    """Whether the feed-forward network has three matrices."""
    cross_layers: int = 0
    """Blocks that attend to an encoder besides."""
    ffn: int | None = None
    """Width inside the feed-forward network, or inside one expert."""
    vocab: int | None = None
    seq: int | None = None
    """Maximum sequence length in tokens."""
    experts: int | None = None
    """Experts in a layer of a mixture of experts."""
    experts_per_token: int | None = None

    @property
    def active_parameters(self) -> int:
        """The parameters that one token meets: all of them, but of experts only `experts_per_token` in each layer."""
        return self.parameters if self.tensors is None else sum(t.size * t.used for t in self.tensors)

    @property
    def largest_module(self) -> int | None:
        """The most parameters that one module holds itself, such as the weight and bias of one linear layer.

        It is what DeepSpeed's estimators call largest_layer_params (deepspeed/runtime/zero/stage3.py).
        """
        if self.tensors is None:
            return None
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.module] += tensor.size
        return max(sizes.values())

    @property
    def largest_block(self) -> int | None:
        """Parameters of the largest transformer block, with all its experts, or of a larger embedding or output layer.

        So much is whole on a rank at a time where stage 3 gathers block by block.
        """
        if self.tensors is None:
            return None
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            # block.* and block.0 fall together, which makes the sum that of block 0: T5's is larger than the others
            block = re.split(r"\.[*0]\.", tensor.module, maxsplit=1)[0]
            sizes[block] += tensor.size * math.prod(tensor.copies[1:])
        return max(sizes.values())


# parts ---------------------------------------------------------------------------------------------------------------


def linear(name: str, inputs: int, outputs: int, bias: bool = False) -> Iterator[Tensor]:
    """Yield a weight (outputs, inputs) and, if it has one, a bias (outputs,)."""
    yield Tensor(f"{name}.weight", (outputs, inputs))
    if bias:
        yield Tensor(f"{name}.bias", (outputs,))


def embedding(name: str, entries: int, width: int) -> Iterator[Tensor]:
    """Yield a table (entries, width)."""
    yield Tensor(f"{name}.weight", (entries, width))


def norm(name: str, width: int, bias: bool = False) -> Iterator[Tensor]:
    """Yield a gain (width,) and, for LayerNorm but not for RMSNorm, a bias (width,)."""
    yield Tensor(f"{name}.weight", (width,))
    if bias:
        yield Tensor(f"{name}.bias", (width,))


def stack(name: str, times: int, *parts: Iterable[Tensor], used: int | None = None) -> Iterator[Tensor]:
    """Yield the parts as they repeat in `times` equal modules, of which a token meets `used`, as a rule all."""
    for part in chain(*parts):
        yield Tensor(f"{name}.*.{part.name}", part.shape, (times, *part.copies), (used or times) * part.used)


def gated(gate: str, up: str, down: str, hidden: int, ffn: int, bias: bool = False) -> Iterator[Tensor]:
    """Yield a gated feed-forward network, down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""
    yield from linear(gate, hidden, ffn, bias)
    yield from linear(up, hidden, ffn, bias)
    yield from linear(down, ffn, hidden, bias)


# architectures -------------------------------------------------------------------------------------------------------


def gpt2(
    layers: int = 12,
    hidden: int = 768,
    heads: int = 12,
    ffn: int | None = None,
    vocab: int = 50257,
    seq: int = 1024,
    tied: bool = True,
) -> Iterator[Tensor]:
    """GPT-2 (Radford et al. 2019, section 2.3), and after it GPT-3, Turing-NLG, MT-NLG: about 12 L h^2 parameters.

    Learned positions, LayerNorm before each half of a block, biases everywhere, and embeddings that are the output too.
    """
    ffn = ffn or 4 * hidden
    yield from embedding("transformer.wte", vocab, hidden)
    yield from embedding("transformer.wpe", seq, hidden)
    yield from stack(
        "transformer.h",
        layers,
        norm("ln_1", hidden, bias=True),
        linear("attn.c_attn", hidden, 3 * hidden, bias=True),
        linear("attn.c_proj", hidden, hidden, bias=True),
        norm("ln_2", hidden, bias=True),
        linear("mlp.c_fc", hidden, ffn, bias=True),
        linear("mlp.c_proj", ffn, hidden, bias=True),
    )
    yield from norm("transformer.ln_f", hidden, bias=True)
    if not tied:
        yield from linear("lm_head", hidden, vocab)


def bert(
    layers: int = 12,
    hidden: int = 768,
    heads: int = 12,
    ffn: int = 3072,
    vocab: int = 30522,
    seq: int = 512,
    segments: int = 2,
) -> Iterator[Tensor]:
    """BERT with its pooler and without a head (Devlin et al. 2018, arXiv:1810.04805, section 3): LayerNorm after."""
    yield from embedding("embeddings.word_embeddings", vocab, hidden)
    yield from embedding("embeddings.position_embeddings", seq, hidden)
    yield from embedding("embeddings.token_type_embeddings", segments, hidden)
    yield from norm("embeddings.LayerNorm", hidden, bias=True)
    yield from stack(
        "encoder.layer",
        layers,
        linear("attention.self.query", hidden, hidden, bias=True),
        linear("attention.self.key", hidden, hidden, bias=True),
        linear("attention.self.value", hidden, hidden, bias=True),
        linear("attention.output.dense", hidden, hidden, bias=True),
        norm("attention.output.LayerNorm", hidden, bias=True),
        linear("intermediate.dense", hidden, ffn, bias=True),
        linear("output.dense", ffn, hidden, bias=True),
        norm("output.LayerNorm", hidden, bias=True),
    )
    yield from linear("pooler.dense", hidden, hidden, bias=True)


def t5(
    layers: int = 6,
    decoder_layers: int | None = None,
    hidden: int = 512,
    heads: int = 8,
    head_dim: int = 64,
    ffn: int = 2048,
    vocab: int = 32128,
    seq: int | None = None,
    buckets: int = 32,
    feed_forward: str = "relu",
    tied: bool = True,
) -> Iterator[Tensor]:
    """T5 (Raffel et al. 2019, arXiv:1910.10683, section 2.1): an encoder and a decoder, no bias in any layer.

    Positions are a bias of attention by distance, in `buckets`, that the first block of each side holds for all. T5 1.1
    has a gated feed-forward network and an output layer of its own (`feed_forward` "gated-gelu", not `tied`).
    """

    def attention(name: str) -> Iterator[Tensor]:
        for projection in "qkv":
            yield from linear(f"{name}.{projection}", hidden, heads * head_dim)
        yield from linear(f"{name}.o", heads * head_dim, hidden)

    def feed_forward_network(name: str) -> Iterator[Tensor]:
        if feed_forward.startswith("gated-"):
            yield from gated(f"{name}.wi_0", f"{name}.wi_1", f"{name}.wo", hidden, ffn)
        else:
            yield from linear(f"{name}.wi", hidden, ffn)
            yield from linear(f"{name}.wo", ffn, hidden)

    def side(name: str, depth: int, *sublayers: Iterable[Tensor]) -> Iterator[Tensor]:
        yield from embedding(f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias", buckets, heads)
        for i, sublayer in enumerate(sublayers):
            yield from stack(f"{name}.block", depth, sublayer, norm(f"layer.{i}.layer_norm", hidden))
        yield from norm(f"{name}.final_layer_norm", hidden)

    yield from embedding("shared", vocab, hidden)
    yield from side(
        "encoder",
        layers,
        attention("layer.0.SelfAttention"),
        feed_forward_network("layer.1.DenseReluDense"),
    )
    yield from side(
        "decoder",
        decoder_layers or layers,
        attention("layer.0.SelfAttention"),
        attention("layer.1.EncDecAttention"),
        feed_forward_network("layer.2.DenseReluDense"),
    )
    if not tied:
        yield from linear("lm_head", hidden, vocab)


def llama(
    layers: int = 32,
    hidden: int = 4096,
    heads: int = 32,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    ffn: int = 11008,
    vocab: int = 32000,
    seq: int = 2048,
    tied: bool = False,
    attention_bias: bool = False,
    mlp_bias: bool = False,
) -> Iterator[Tensor]:
    """Llama (Touvron et al. 2023, arXiv:2302.13971, section 2.2): RMSNorm, gated, rotary positions, no biases."""
    yield from _decoder(
        layers,
        hidden,
        vocab,
        tied,
        _attention(hidden, heads, kv_heads, head_dim, bias=attention_bias, output_bias=attention_bias),
        _mlp(hidden, ffn, bias=mlp_bias),
    )


def mistral(
    layers: int = 32,
    hidden: int = 4096,
    heads: int = 32,
    kv_heads: int | None = 8,
    head_dim: int | None = None,
    ffn: int = 14336,
    vocab: int = 32000,
    seq: int = 131072,
    tied: bool = False,
) -> Iterator[Tensor]:
    """Mistral (Jiang et al. 2023, arXiv:2310.06825, section 2): Llama with grouped-query attention, in a window."""
    yield from _decoder(layers, hidden, vocab, tied, _attention(hidden, heads, kv_heads, head_dim), _mlp(hidden, ffn))


def qwen2(
    layers: int = 32,
    hidden: int = 4096,
    heads: int = 32,
    kv_heads: int | None = 32,
    head_dim: int | None = None,
    ffn: int = 22016,
    vocab: int = 151936,
    seq: int = 32768,
    tied: bool = False,
) -> Iterator[Tensor]:
    """Qwen2 and 2.5 (Yang et al. 2024, arXiv:2407.10671, section 2.2): Llama with biases on queries, keys, values."""
    yield from _decoder(
        layers, hidden, vocab, tied, _attention(hidden, heads, kv_heads, head_dim, bias=True), _mlp(hidden, ffn)
    )


def qwen3(
    layers: int = 32,
    hidden: int = 4096,
    heads: int = 32,
    kv_heads: int | None = 32,
    head_dim: int = 128,
    ffn: int = 22016,
    vocab: int = 151936,
    seq: int = 32768,
    tied: bool = False,
    attention_bias: bool = False,
) -> Iterator[Tensor]:
    """Qwen3, dense (Yang et al. 2025, arXiv:2505.09388, section 2): Llama with a norm on each head's query and key."""
    yield from _decoder(
        layers,
        hidden,
        vocab,
        tied,
        chain(
            _attention(hidden, heads, kv_heads, head_dim, bias=attention_bias, output_bias=attention_bias),
            norm("self_attn.q_norm", head_dim),
            norm("self_attn.k_norm", head_dim),
        ),
        _mlp(hidden, ffn),
    )


def mixtral(
    layers: int = 32,
    hidden: int = 4096,
    heads: int = 32,
    kv_heads: int | None = 8,
    head_dim: int | None = None,
    ffn: int = 14336,
    vocab: int = 32000,
    seq: int = 131072,
    tied: bool = False,
    experts: int = 8,
    experts_per_token: int = 2,
) -> Iterator[Tensor]:
    """Mixtral (Jiang et al. 2024, arXiv:2401.04088, section 2): Mistral with a choice of feed-forward networks.

    Each matrix of an expert is a linear layer of its own, as in the checkpoint, whatever a library packs together.
    """
    yield from _decoder(
        layers,
        hidden,
        vocab,
        tied,
        _attention(hidden, heads, kv_heads, head_dim),
        chain(
            linear("block_sparse_moe.gate", hidden, experts),
            stack("block_sparse_moe.experts", experts, gated("w1", "w3", "w2", hidden, ffn), used=experts_per_token),
        ),
    )


def _decoder(
    layers: int, hidden: int, vocab: int, tied: bool, attention: Iterable[Tensor], feed_forward: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Llama's frame. Rotary positions are no parameters."""
    yield from embedding("model.embed_tokens", vocab, hidden)
    yield from stack(
        "model.layers",
        layers,
        norm("input_layernorm", hidden),
        attention,
        norm("post_attention_layernorm", hidden),
        feed_forward,
    )
    yield from norm("model.norm", hidden)
    if not tied:
        yield from linear("lm_head", hidden, vocab)


def _attention(
    hidden: int,
    heads: int,
    kv_heads: int | None,
    head_dim: int | None,
    bias: bool = False,
    output_bias: bool = False,
) -> Iterator[Tensor]:
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245): several queries share a key and a value."""
    head_dim = head_dim or hidden // heads
    kv_heads = kv_heads or heads
    yield from linear("self_attn.q_proj", hidden, heads * head_dim, bias)
    yield from linear("self_attn.k_proj", hidden, kv_heads * head_dim, bias)
    yield from linear("self_attn.v_proj", hidden, kv_heads * head_dim, bias)
    yield from linear("self_attn.o_proj", heads * head_dim, hidden, output_bias)


def _mlp(hidden: int, ffn: int, bias: bool = False) -> Iterator[Tensor]:
    return gated("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", hidden, ffn, bias)


Architecture = Callable[..., Iterator[Tensor]]

ARCHITECTURES: dict[str, Architecture] = {
    function.__name__: function for function in (gpt2, llama, mistral, qwen2, qwen3, t5, bert, mixtral)
}
"""By the `model_type` of a config.json."""

# configurations ------------------------------------------------------------------------------------------------------

KEYS = {
    "layers": ("num_hidden_layers",),
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "ffn": ("intermediate_size",),
    "vocab": ("vocab_size",),
    "seq": ("max_position_embeddings",),
    "tied": ("tie_word_embeddings",),
    "attention_bias": ("attention_bias",),
    "mlp_bias": ("mlp_bias",),
    "segments": ("type_vocab_size",),
    "experts": ("num_local_experts", "num_experts"),
    "experts_per_token": ("num_experts_per_tok",),
}
"""What a config.json calls a size, and what else `transformers` lets it call that (its attribute_map)."""

OWN_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {
        "layers": ("n_layer", "num_hidden_layers"),
        "hidden": ("n_embd", "hidden_size"),
        "heads": ("n_head", "num_attention_heads"),
        "ffn": ("n_inner",),
        "seq": ("n_positions", "max_position_embeddings"),
    },
    "t5": {
        "layers": ("num_layers", "num_hidden_layers"),
        "decoder_layers": ("num_decoder_layers",),
        "hidden": ("d_model", "hidden_size"),
        "heads": ("num_heads", "num_attention_heads"),
        "head_dim": ("d_kv", "head_dim"),
        "ffn": ("d_ff",),
        "seq": ("n_positions",),
        "buckets": ("relative_attention_num_buckets",),
        "feed_forward": ("feed_forward_proj",),
    },
}
"""The two that go by names of their own."""

UNCOUNTED: dict[str, dict[str, Any]] = {
    "gpt2": {"add_cross_attention": False, "pruned_heads": {}},
    "bert": {"add_cross_attention": False, "pruned_heads": {}, "position_embedding_type": "absolute"},
}
"""Keys that would change the count in a way that is not followed here; with any other value a file is refused."""


def from_config(path: str) -> Model:
    """Return the model that a Hugging Face `config.json` describes, by its `model_type`.

    A decoder or T5 is counted with its language-model head, BERT with its pooler, whatever class the file names under
    "architectures". Raises InputError, which names the file and the key, for an architecture that is not known and for
    sizes that cannot be; what else the file holds does not matter here.
    """
    what = f"model {path}"
    config = read_json(path, what)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        found = f"model_type {json.dumps(kind)} is not known" if "model_type" in config else "it lacks model_type"
        raise InputError(f"{what}: {found}; known are {', '.join(ARCHITECTURES)}")
    for key, only in UNCOUNTED.get(kind, {}).items():
        if config.get(key, only) != only:
            raise InputError(f"{what}: {key} is {json.dumps(config[key])}; only {json.dumps(only)} can be counted")

    names = {**KEYS, **OWN_KEYS.get(kind, {})}
    keys: dict[str, str] = {}
    sizes: dict[str, Any] = {}
    for name, parameter in _arguments(kind).items():
        keys[name] = _key(what, config, names[name])
        given = config.get(keys[name], parameter.default)
        sizes[name] = _checked(f"{what}: {keys[name]}", given, parameter.annotation)
    _check_heads(what, sizes, keys)
    return _build(path, f"the file {path}", kind, sizes)


def from_shape(
    layers: int, hidden: int, heads: int | None = None, vocab: int = 50257, seq: int = 1024, ffn: int | None = None
) -> Model:
    """Return GPT-2's architecture with these sizes: learned positions, tied embeddings, `ffn` 4 h unless given.

    These are 12 L h^2 + 13 L h parameters in the layers' weights, biases and norms, (vocab + seq) h in the embeddings
    and 2 h in the last norm. The number of heads changes none of it. Raises InputError for sizes that cannot be.
    """
    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "vocab": vocab, "seq": seq, "ffn": ffn}
    for name, value in sizes.items():
        _checked(f"model: {name}", value, int | None if name in ("heads", "ffn") else int)
    _check_heads("model", sizes, {name: name for name in sizes})
    return _build(
        f"gpt2, {counted(layers, 'layer')} of {hidden}", "GPT-2's architecture with the sizes given", "gpt2", sizes
    )


def from_count(parameters: float) -> Model:
    """Return a model of which only the number of parameters is known, such as 7.5e9; it is taken to be dense.

    Raises InputError unless that is a whole number, from 1 to 1e24.
    """
    number = isinstance(parameters, (int, float)) and not isinstance(parameters, bool)
    if not number or not 1 <= parameters <= 1e24 or parameters != int(parameters):
        raise InputError(
            f"model: {parameters!r} parameters cannot be; give a whole number from 1 to 1e24, such as 7.5e9"
        )
    return Model(f"{int(parameters):,} parameters", "the number given", int(parameters))


def _arguments(kind: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(ARCHITECTURES[kind]).parameters


def _build(name: str, source: str, kind: str, sizes: Mapping[str, Any]) -> Model:
    """Return the model; a size that is left out takes the architecture's default."""
    sizes = {argument: sizes.get(argument, parameter.default) for argument, parameter in _arguments(kind).items()}
    tensors = tuple(ARCHITECTURES[kind](**sizes))
    return Model(
        name,
        source,
        sum(tensor.size * tensor.times for tensor in tensors),
        tensors,
        layers=sizes["layers"] + ((sizes["decoder_layers"] or sizes["layers"]) if "decoder_layers" in sizes else 0),
        hidden=sizes["hidden"],
        heads=sizes["heads"],
        kv_heads=sizes.get("kv_heads") or sizes["heads"],
        head_dim=sizes.get("head_dim") or (sizes["hidden"] // sizes["heads"] if sizes["heads"] else None),
        gated=any(tensor.module.endswith(("up_proj", "w3", "wi_1")) for tensor in tensors),
        cross_layers=sum(tensor.times for tensor in tensors if tensor.module.endswith("EncDecAttention.q")),
        ffn=sizes["ffn"] or 4 * sizes["hidden"],
        vocab=sizes["vocab"],
        seq=sizes["seq"],
        experts=sizes.get("experts"),
        experts_per_token=sizes.get("experts_per_token"),
    )


def _key(what: str, config: dict[str, Any], names: tuple[str, ...]) -> str:
    """Which of the names of a size the file uses, the first if none."""
    present = [name for name in names if name in config] or [names[0]]
    for other in present[1:]:
        if config[other] != config[present[0]]:
            raise InputError(f"{what}: {present[0]} and {other} are two names of one size and differ; give one of them")
    return present[0]


def _checked(what: str, value: Any, kind: Any) -> Any:
    """Return the value if it is of the annotated kind: a size, a size or None, a flag, the name of an activation."""
    if kind is bool:
        fits, right = isinstance(value, bool), "true or false"
    elif kind is str:
        fits = isinstance(value, str) and re.fullmatch(r"(gated-)?[^-]+", value) is not None
        right = 'the name of an activation, or one after "gated-"'
    else:
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIZE
        fits, right = whole or (value is None and kind is not int), f"a whole number from 1 to {LARGEST_SIZE}"
    if not fits:
        raise InputError(f"{what} is {json.dumps(value, default=repr)}; it must be {right}")
    return value


def _check_heads(what: str, sizes: dict[str, Any], keys: Mapping[str, str]) -> None:
    """Raise InputError if heads do not share out the width, unless they have a width of their own, or the experts."""
    wholes = [("heads", "hidden")] if sizes.get("head_dim") is None else []
    for part, whole in (*wholes, ("kv_heads", "heads")):
        if sizes.get(part) and sizes[whole] % sizes[part]:
            raise InputError(
                f"{what}: {keys[part]} is {sizes[part]}; it must divide {keys[whole]}, which is {sizes[whole]}"
            )
    if "experts" in sizes and sizes["experts_per_token"] > sizes["experts"]:
        raise InputError(
            f"{what}: {keys['experts_per_token']} is {sizes['experts_per_token']}; it must be at most "
            f"{keys['experts']}, which is {sizes['experts']}"
        )


# presets -------------------------------------------------------------------------------------------------------------

_LIKE_GPT2 = "counted as GPT-2's architecture, with its vocabulary"

# model_type, where the sizes stand, and the sizes of each
_FAMILIES: tuple[tuple[str, str, dict[str, dict[str, int]]], ...] = (
    (
        "gpt2",
        "Radford et al. 2019, table 2, and the config.json files of openai-community",
        {
            "gpt2": dict(layers=12, hidden=768, heads=12),
            "gpt2-medium": dict(layers=24, hidden=1024, heads=16),
            "gpt2-large": dict(layers=36, hidden=1280, heads=20),
            "gpt2-xl": dict(layers=48, hidden=1600, heads=25),
        },
    ),
    (
        "gpt2",
        f"GPT-3 (arXiv:2005.14165), table 2.1; {_LIKE_GPT2}",
        {"gpt3-175b": dict(layers=96, hidden=12288, heads=96, seq=2048)},
    ),
    (
        "gpt2",
        f"Rosset 2020, Turing-NLG, on Microsoft Research's blog; {_LIKE_GPT2}",
        {"turing-nlg-17b": dict(layers=78, hidden=4256, heads=28, seq=1024)},
    ),
    (
        "gpt2",
        f"Megatron-Turing NLG 530B (arXiv:2201.11990), section 3; {_LIKE_GPT2}",
        {"mt-nlg-530b": dict(layers=105, hidden=20480, heads=128, seq=2048)},
    ),
    (
        "llama",
        "Llama 2 (arXiv:2307.09288), table 1, and the config.json files of meta-llama",
        {
            "llama-2-7b": dict(layers=32, hidden=4096, heads=32, ffn=11008, seq=4096),
            "llama-2-13b": dict(layers=40, hidden=5120, heads=40, ffn=13824, seq=4096),
            "llama-2-70b": dict(layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28672, seq=4096),
        },
    ),
    (
        "llama",
        "Llama 3 (arXiv:2407.21783), table 3, and the config.json files of meta-llama",
        {
            "llama-3-8b": dict(layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256, seq=8192),
            "llama-3-70b": dict(layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28672, vocab=128256, seq=8192),
            "llama-3.1-405b": dict(
                layers=126, hidden=16384, heads=128, kv_heads=8, ffn=53248, vocab=128256, seq=131072
            ),
        },
    ),
    (
        "mistral",
        "Mistral 7B (arXiv:2310.06825), table 1, and the config.json of mistralai/Mistral-7B-v0.1",
        {"mistral-7b": dict(layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, seq=32768)},
    ),
    (
        "mixtral",
        "Mixtral (arXiv:2401.04088), table 1",
        {"mixtral-8x7b": dict(layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, seq=32768, experts=8)},
    ),
    (
        "qwen2",
        "Qwen2 (arXiv:2407.10671), table 1, and the config.json of Qwen/Qwen2-7B",
        {"qwen2-7b": dict(layers=28, hidden=3584, heads=28, kv_heads=4, ffn=18944, vocab=152064, seq=131072)},
    ),
    (
        "bert",
        "BERT (arXiv:1810.04805), section 3, and the config.json files of google-bert, uncased",
        {
            "bert-base": dict(layers=12, hidden=768, heads=12, ffn=3072),
            "bert-large": dict(layers=24, hidden=1024, heads=16, ffn=4096),
        },
    ),
    (
        "t5",
        "T5 (arXiv:1910.10683), section 3.7, and the config.json files of google-t5",
        {
            "t5-small": dict(layers=6, hidden=512, heads=8, head_dim=64, ffn=2048, seq=512),
            "t5-base": dict(layers=12, hidden=768, heads=12, head_dim=64, ffn=3072, seq=512),
            "t5-large": dict(layers=24, hidden=1024, heads=16, head_dim=64, ffn=4096, seq=512),
            "t5-3b": dict(layers=24, hidden=1024, heads=32, head_dim=128, ffn=16384, seq=512),
            "t5-11b": dict(layers=24, hidden=1024, heads=128, head_dim=128, ffn=65536, seq=512),
        },
    ),
)

# a model is a dozen tensors and a count for each, so that all of them take a millisecond
PRESETS: dict[str, Model] = {
    name: _build(name, source, kind, sizes) for kind, source, family in _FAMILIES for name, sizes in family.items()
}


def find(name_or_path: str) -> Model:
    """Return a preset by its name ("gpt2-xl", "GPT-2 XL"), or the model of a config.json or of a folder with one.

    Raises InputError, which names the closest presets, if there is none.
    """
    plain = {_plain(name): model for name, model in PRESETS.items()}
    if _plain(name_or_path) in plain:
        return plain[_plain(name_or_path)]
    if os.path.isdir(name_or_path):
        return from_config(str(Path(name_or_path) / "config.json"))
    if name_or_path.endswith(".json") or os.path.exists(name_or_path):
        return from_config(name_or_path)
    close = difflib.get_close_matches(name_or_path.lower().rpartition("/")[2], PRESETS, cutoff=0.5)
    hint = f"close to it: {', '.join(close)}" if close else f"known are {', '.join(PRESETS)}"
    raise InputError(f"model: {name_or_path!r} is not known; {hint}; the path of a config.json works too")


def _plain(name: str) -> str:
    """A name without what people write differently."""
    return re.sub("[-_ ]", "", name.lower())
