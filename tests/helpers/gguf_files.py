"""A tiny Llama model in a GGUF file, and its tensors and tokens."""

from pathlib import Path

import gguf
import numpy as np

HEADS, KV_HEADS, HEAD, WIDTH, INNER, LAYERS = 4, 2, 8, 32, 64, 2
BYTES = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256))]
BYTES += [chr(256 + i) for i in range(256 - len(BYTES))]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "Ġ a", "ĠĠ Ġ", "h e"]
USER = ["<user>"]
TOKENS = [*SPECIAL, *BYTES, *(m.replace(" ", "") for m in MERGES), *USER]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in the order of llama.cpp, with the two rows of a rotary pair adjacent."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def tensors(*, tied: bool = True, bias: bool = False) -> dict[str, np.ndarray]:
    """The tensors of the model, by Hugging Face name."""
    random = np.random.default_rng(0)
    sizes = {
        "self_attn.q_proj": (HEADS * HEAD, WIDTH),
        "self_attn.k_proj": (KV_HEADS * HEAD, WIDTH),
        "self_attn.v_proj": (KV_HEADS * HEAD, WIDTH),
        "self_attn.o_proj": (WIDTH, HEADS * HEAD),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    shapes = {"model.embed_tokens.weight": (len(TOKENS), WIDTH), "model.norm.weight": (WIDTH,)}
    if not tied:
        shapes["lm_head.weight"] = (len(TOKENS), WIDTH)
    for i in range(LAYERS):
        for name, shape in sizes.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
            if bias and name.startswith("self_attn"):
                shapes[f"model.layers.{i}.{name}.bias"] = shape[:1]
    return {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def gguf_name(name: str) -> str:
    """Convert a Hugging Face tensor name to GGUF's."""
    for hugging_face, in_gguf in (
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ):
        name = name.replace(hugging_face, in_gguf)
    return name


def write_gguf(
    path: Path,
    kind: str = "F32",
    *,
    tied: bool = True,
    bias: bool = False,
    architecture: str = "llama",
    change: dict | None = None,
    extra: dict | None = None,
) -> Path:
    """Write the model with matrices of type `kind`.

    `change` replaces metadata, and drops those whose value is None; `extra` adds or replaces
    tensors.
    """
    writer = gguf.GGUFWriter(path, architecture)
    metadata = {
        "llama.context_length": 128,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.rope.dimension_count": HEAD,
        "llama.rope.freq_base": 100000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(TOKENS) - 4) + [4],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": TEMPLATE,
    } | (change or {})
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in metadata.items():
        if value is not None:
            adders[type(value)](key, value)
    quantised = gguf.GGMLQuantizationType[kind]
    for name, tensor in (tensors(tied=tied, bias=bias) | (extra or {})).items():
        for projection, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
            if projection in name:
                tensor = permuted(tensor, heads)  # noqa: PLW2901
        if tensor.ndim == 1:
            writer.add_tensor(gguf_name(name), tensor)
        else:
            data = gguf.quantize(tensor, quantised)
            writer.add_tensor(gguf_name(name), data, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
