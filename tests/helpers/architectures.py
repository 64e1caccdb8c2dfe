"""One tiny random model for each type of causal language model that transformers knows.

Most come from one recipe, `SIZES`: what a configuration's class has no field for is left out. What
a type needs beyond it stands in `OWN`. Eight layers; windows, chunks and selections of a few
tokens, fewer than the sequences of the tests have, so that a layer that gets another layer's mask
changes the logits; patterns that repeat within eight layers.
"""

import dataclasses
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Large enough that layers, and the order of layers, show in the logits.
    "initializer_range": 0.2,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "feed_forward_size": 48,
    "ffn_hidden_size": 48,
    "num_hidden_layers": 8,
    "num_layers": 8,
    "n_layer": 8,
    "n_layers": 8,
    "encoder_layers": 8,
    "decoder_layers": 8,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "head_dim": 8,
    "attention_head_size": 8,
    "max_position_embeddings": 128,
    "max_target_positions": 128,
    "n_positions": 128,
    "max_seq_len": 128,
    "sliding_window": 6,
    "use_sliding_window": True,
    "max_window_layers": 3,
    # Mixtures of experts; some layers are dense.
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_experts_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "dense_intermediate_size": 48,
    "expert_ffn_hidden_size": 16,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
    "num_dense_layers": 2,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [1, 3],
    # Keys and values from a narrow vector.
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    # Chosen keys.
    "index_topk": 4,
    # With few heads many scores are zero, and which of them is chosen is a matter of rounding.
    "index_n_heads": 16,
    "index_head_dim": 8,
    # Recurrent states.
    "state_size": 8,
    "conv_kernel": 4,
    "time_step_rank": 4,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_dt_rank": 4,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "lru_width": 32,
    "attention_window_size": 6,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "block_size": 8,
    # What else would not be causal.
    "is_decoder": True,
    # Pictures and sounds, which no test looks at.
    "depth": 2,
    "out_hidden_size": 32,
    "image_size": 28,
    "patch_size": 14,
    "projector_hidden_size": 32,
}

LATENT = {"num_key_value_heads": 4}
"""Each head has its own keys and values, computed from one narrow vector."""

LINEAR = ["linear_attention", "linear_attention", "full_attention", "linear_attention"] * 2
CONV = ["conv", "conv", "full_attention", "conv"] * 2
PLAIN = {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "global_head_dim": 16}

QWEN4 = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "hc_count": 2,
    "hc_lowrank": 8,
}

OWN: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT,
    "bailing_hybrid": LATENT,
    "bamba": {"attn_layer_indices": [2, 5]},
    "big_bird": {"attention_type": "original_full"},
    "codegen": {"n_ctx": 128, "rotary_dim": 8},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
            },
            "sliding_attention": None,
        },
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2
        + ["sliding_attention"] * 2,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {
            "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32,
        },
    },
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT,
    "dots3_note": LATENT,
    "dots3_note_text": LATENT,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n": PLAIN,
    "gemma3n_text": PLAIN,
    "gemma4": PLAIN,
    "gemma4_text": PLAIN,
    "gemma4_unified": PLAIN,
    "gemma4_unified_text": PLAIN,
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT | {"indexer_types": ["full", "shared", "shared", "full"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 4]], "window_size": 6},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": LINEAR},
    "hy_v4": LATENT,
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 2},
    "kimi_linear": LATENT,
    "lfm2": {"layer_types": CONV},
    "lfm2_moe": {"layer_types": CONV},
    "longcat_flash": LATENT,
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "minicpm3": LATENT,
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"] * 2,
    },
    "qwen4_exp": QWEN4,
    "qwen4_exp_text": QWEN4,
    "rwkv": {"rescale_every": 0, "attention_hidden_size": 32},
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0, "ffn_round_up_to_multiple_of": 8},
    "xmod": {"default_language": "en_XX"},
    "youtu": LATENT,
    "zamba2": {
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention"]
        * 2,
        "num_mem_blocks": 1,
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "layer_types": ["hybrid", "hybrid_sliding"] * 4,
        "router_hidden_size": 16,
    },
    "mllama": {"cross_attention_layers": [3, 5]},
}  # fmt: skip
"""What a type needs beyond `SIZES`, by its language model's configuration."""


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of the tiny model of a type."""
    config_class = CONFIG_MAPPING[model_type]
    return config_class(**_settings(config_class, {**OWN.get(model_type, {}), **changes}))


def tiny_architecture(model_type: str, **changes: Any) -> Any:
    """The tiny model of a type, in evaluation mode: every weight is a different random number.

    Norms and biases too: what begins as ones or zeros in every layer would hide a layer's move.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.05)
        for part in model.modules():
            if isinstance(part, torch.nn.Embedding) and part.padding_idx is not None:
                part.weight[part.padding_idx] = 0  # as it is loaded
    return model


def _settings(config_class: Any, own: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(config_class)}
    settings = {}
    for name, value in SIZES.items():
        name = config_class.attribute_map.get(name, name)
        if name in known:
            settings[name] = value
    for name, spec in config_class.sub_configs_defaults.items():
        part = spec.config_class
        if not issubclass(part, PreTrainedConfig):
            part = CONFIG_MAPPING[spec.model_type]
        is_text = name in ("text_config", "decoder")
        settings[name] = _settings(part, own if is_text else {})
        settings[name].setdefault("model_type", part.model_type)
        if is_text:
            own = {}
    settings.update({config_class.attribute_map.get(name, name): own[name] for name in own})
    return settings
