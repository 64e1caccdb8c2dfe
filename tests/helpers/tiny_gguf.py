"""Tiny GGUF files with random weights, as llama.cpp's converter writes them."""

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from tokenizers import pre_tokenizers

HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 32, 64, 4, 2, 259
HEAD = {"llama": 8, "qwen2": 8, "gemma3": 256}
"""Size of a head: transformers scales Gemma's attention as for 256, whatever a file says."""

NORMS = {
    "llama": {"attn_norm": HIDDEN, "ffn_norm": HIDDEN},
    "gemma3": {
        "attn_norm": HIDDEN, "ffn_norm": HIDDEN, "post_attention_norm": HIDDEN,
        "post_ffw_norm": HIDDEN, "attn_q_norm": 256, "attn_k_norm": 256,
    },
    "qwen2": {"attn_norm": HIDDEN, "ffn_norm": HIDDEN},
}  # fmt: skip


def tensors(architecture="llama", layers=8):
    """Random weights, the matrices scaled so that each layer matters."""
    draw = np.random.default_rng(0)

    def matrix(rows, columns):
        return (draw.standard_normal((rows, columns)) * 0.15).astype(np.float32)

    def norm(size):
        return (1 + draw.standard_normal(size) * 0.1).astype(np.float32)

    shapes = matrices(HEAD[architecture])
    made = {"token_embd.weight": matrix(VOCABULARY, HIDDEN), "output_norm.weight": norm(HIDDEN)}
    if architecture == "llama":
        made["output.weight"] = matrix(VOCABULARY, HIDDEN)
    for layer in range(layers):
        block = {name: matrix(*shape) for name, shape in shapes.items()}
        block |= {name: norm(size) for name, size in NORMS[architecture].items()}
        made |= {f"blk.{layer}.{name}.weight": value for name, value in block.items()}
        if architecture == "qwen2":
            biases = ("attn_q", "attn_k", "attn_v")
            made |= {f"blk.{layer}.{name}.bias": norm(shapes[name][0]) - 1 for name in biases}
    return made


def matrices(head):
    """The shape of each matrix of a layer."""
    inner, outer = (INNER, HIDDEN), (HIDDEN, INNER)
    return {
        "attn_q": (HEADS * head, HIDDEN), "attn_k": (KV_HEADS * head, HIDDEN),
        "attn_v": (KV_HEADS * head, HIDDEN), "attn_output": (HIDDEN, HEADS * head),
        "ffn_gate": inner, "ffn_up": inner, "ffn_down": outer,
    }  # fmt: skip


def write(path, architecture="llama", layers=8, kind="F32", content=None, fields=(), pre="gpt-2"):
    """Write a file; its matrices have the type `kind`, and `fields` are pairs of name and value."""
    writer = GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD[architecture])
    writer.add_vocab_size(VOCABULARY)
    writer.add_rope_freq_base(1_000_000.0 if architecture == "gemma3" else 10_000.0)
    if architecture == "gemma3":
        writer.add_key_length(HEAD[architecture])
        writer.add_value_length(HEAD[architecture])
        writer.add_sliding_window(16)
    for name, value in fields:
        adders = {list: writer.add_array, str: writer.add_string, int: writer.add_uint32}
        adders[type(value)](name, value)
    _add_tokenizer(writer, architecture, pre)
    for name, value in (content or tensors(architecture, layers)).items():
        type_ = GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        writer.add_tensor(name, quantize(value, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, architecture, pre):
    if architecture == "gemma3":  # sentencepiece, with a piece for each byte
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<pad>", "<eos>", "<bos>", *(f"<0x{b:02X}>" for b in range(256))])
        writer.add_token_scores([0.0] * VOCABULARY)
        writer.add_token_types([3, 3, 3] + [6] * 256)
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(False)
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<bos>", "<eos>", "ab"])
    writer.add_token_types([1] * 256 + [3, 3, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
