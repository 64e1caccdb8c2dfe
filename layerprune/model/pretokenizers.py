r"""Split text before byte-level BPE as llama.cpp does, by the name in a GGUF file.

A GGUF file names its splits in `tokenizer.ggml.pre`, and does not contain them. transformers knows
some of the names and splits as GPT-2 for all others, which gives other tokens: SmolLM2's `smollm`
takes digits one by one. Source: `src/llama-vocab.cpp` of llama.cpp, as in llama-cpp-python 0.3.36.
"""

from typing import Any

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
THREE_DIGITS = r"[0-9][0-9][0-9]"
NO_PUNCTUATION = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES)
QWEN2 = LLAMA3.replace("{1,3}", "")
CJK = r"[\u4e00-\u9fa5\u3040-\u30ff]+"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*" + SPACES
)

SPLITS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", THREE_DIGITS),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, THREE_DIGITS),
    "deepseek-coder": (
        r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[\u0800-\u9fa5\uac00-\ud7ff]+", DIGIT
    ),
    "minicpm5": (r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")),
    "seed-coder": (QWEN2.replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+"),),
    "ufakzeka": (QWEN2.removeprefix(CONTRACTIONS),),
    "viking": (NO_PUNCTUATION, DIGIT),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), (NO_PUNCTUATION,)),
    **dict.fromkeys(
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
         "mellum2"),
        (DIGIT, GPT2),
    ),
    **dict.fromkeys(
        ("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "exaone4",
         "trillion", "granite-docling"),
        (GPT2,),
    ),
    **dict.fromkeys(("chatglm-bpe", "glm4", "glm5"), (LLAMA3,)),
    **dict.fromkeys(("stablelm2", "hunyuan", "grok-2", "solar-open"), (QWEN2,)),
    **dict.fromkeys(
        ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), (r"\p{N}{1,3}", CJK, DEEPSEEK3)
    ),
}  # fmt: skip
"""Regular expressions of each name, applied one after the other."""

WHOLE_WORDS = frozenset(
    ("minicpm5", "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
     "lfm2", "jina-v5-nano", "glm4", "glm5", "tekken")
)  # fmt: skip
"""Names whose pieces are one token if the vocabulary has them, whatever the merges."""


def set_pre_tokenizer(tokenizer: Any, name: str) -> bool:
    """Make `tokenizer` split text as llama.cpp does for `name`; return False if it is unknown."""
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    backend = tokenizer.backend_tokenizer
    if name in SPLITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                *(pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS[name]),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    elif name not in GGUF_PRE_TOKENIZER_SPLITS:
        return False
    if name in WHOLE_WORDS:
        backend.model.ignore_merges = True
    return True
