"""Model types whose layers cannot be removed, and why."""

REFUSED = {
    "blt": "its layers are spread over four stacks, of bytes and of patches",
    "cpmant": "its prompt is read from both sides, and with the cache differently",
    "dots3_note": "it has not been tried; its language model alone, dots3_note_text, is supported",
    "emu3": "transformers saves its language model under a type that it does not load",
    "gemma3n": "each layer has its own part of one embedding (hidden_size_per_layer_input)",
    "gemma3n_text": "each layer has its own part of one embedding (hidden_size_per_layer_input)",
    "gemma4_assistant": "it reads the keys and values of another model",
    "gemma4_unified_assistant": "it reads the keys and values of another model",
    "hrm_text": "its two stacks run in turns, several times each",
    "inkling2_text": "its layers attend to what other layers put out (attn_res_block)",
    "mllama": "some of its layers attend to pictures alone (cross_attention_layers)",
    "moshi": "with the cache it generates other tokens than without",
    "reformer": "its layers are reversible, two streams at once",
    "rwkv": "with its state it generates other tokens than without, whole or cut",
    "xlm": "its layers are spread over several lists",
    "xlnet": "it is no causal model: tokens see those after them",
    "zamba": "its shared blocks are tied to each other by the numbers of their layers",
    "zamba2": "its shared blocks have an adapter for each layer, found by the layer's index",
}

NOT_DECODERS = {
    "musicgen": "an encoder and decoders of sound",
    "musicgen_melody": "an encoder and decoders of sound",
    "prophetnet": "a decoder of an encoder-decoder model, which predicts several tokens at once",
}
"""Types that are not language models with one decoder."""
