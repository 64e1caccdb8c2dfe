"""One tiny configuration for each model type that `drop_layers` accepts.

Eight layers; sliding windows of six tokens, shorter than the sequences of the tests, so that a
layer that gets another layer's mask changes the logits.
"""

import transformers

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Large enough that layers, and the order of layers, show in the logits.
    "initializer_range": 0.2,
}


def _make(name: str, drop: tuple[str, ...] = (), **extra):
    def make(**changes):
        sizes = {key: value for key, value in SIZES.items() if key not in drop}
        return getattr(transformers, name)(**{**sizes, **extra, **changes})

    return make


GQA = ("num_key_value_heads",)

TINY = {
    "cohere2": _make("Cohere2Config", sliding_window=6),
    "falcon": _make("FalconConfig", drop=GQA, new_decoder_architecture=True, num_kv_heads=2),
    "gemma": _make("GemmaConfig", head_dim=8),
    "gemma2": _make("Gemma2Config", head_dim=8, sliding_window=6),
    "gemma3_text": _make("Gemma3TextConfig", head_dim=8, sliding_window=6),
    "gpt2": _make("GPT2Config", drop=GQA),
    "gpt_neox": _make("GPTNeoXConfig", drop=GQA),
    "granite": _make("GraniteConfig", logits_scaling=2.0, residual_multiplier=0.5),
    "llama": _make("LlamaConfig"),
    "mistral": _make("MistralConfig", sliding_window=6),
    "mixtral": _make("MixtralConfig", num_local_experts=4),
    "olmo2": _make("Olmo2Config"),
    "olmo3": _make("Olmo3Config", sliding_window=6),
    "opt": _make("OPTConfig", drop=GQA, ffn_dim=64, word_embed_proj_dim=32),
    "phi": _make("PhiConfig"),
    "phi3": _make("Phi3Config", sliding_window=6),
    "qwen2": _make("Qwen2Config", use_sliding_window=True, sliding_window=6, max_window_layers=3),
    "qwen3": _make("Qwen3Config", head_dim=8, use_sliding_window=True, sliding_window=6,
                   max_window_layers=3),
    "smollm3": _make("SmolLM3Config", no_rope_layer_interval=3),
    "starcoder2": _make("Starcoder2Config", sliding_window=6),
}  # fmt: skip
