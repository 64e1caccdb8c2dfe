"""Every model that has a name here: it composes, and its layers may be dropped."""

import pytest

from layerprune.config.compose import compose, conf_dir
from layerprune.config.schema import HealingFacts
from layerprune.model.verified import VERIFIED

pytestmark = pytest.mark.quick

TYPES = {
    "falcon_7b": "falcon", "gemma2_2b": "gemma2", "gemma3_1b": "gemma3_text",
    "gemma3_270m": "gemma3_text", "gemma3_4b": "gemma3", "gpt2": "gpt2",
    "granite3_3_2b": "granite", "llama2_13b": "llama", "llama2_70b": "llama", "llama2_7b": "llama",
    "llama3_1_8b": "llama", "llama3_2_1b": "llama", "ministral_8b": "mistral",
    "mistral_7b": "mistral", "mistral_7b_v0_3": "mistral", "mixtral_8x7b": "mixtral",
    "olmo2_1b": "olmo2", "olmo3_7b": "olmo3", "olmoe_1b_7b": "olmoe", "opt_125m": "opt",
    "phi2": "phi", "phi3_mini": "phi3", "phi4": "phi3", "pythia_410m": "gpt_neox",
    "qwen2_5_0_5b": "qwen2", "qwen2_5_7b": "qwen2", "qwen3_0_6b": "qwen3", "qwen3_1_7b": "qwen3",
    "qwen3_30b_a3b": "qwen3_moe", "qwen3_8b": "qwen3", "smollm2_135m": "llama",
    "smollm2_1_7b": "llama", "smollm2_360m": "llama", "smollm3_3b": "smollm3",
}  # fmt: skip
"""The `model_type` in each one's own `config.json`."""

OWN_CODE = {"qwen_7b", "qwen_14b"}

ANY = {"custom"}

READS = {"gpt2": 1024}
"""Tokens, of models that read less than the paper's sequences are long."""

PAPER = {  # Gromov et al., appendix A.1: id, sequence length, peak rate, rank, targets
    "llama2_7b": ("meta-llama/Llama-2-7b-hf", 2048, 3e-4, 2, "gate_proj, down_proj, up_proj"),
    "llama2_13b": ("meta-llama/Llama-2-13b-hf", 4096, 3e-4, 64, "gate_proj, down_proj, up_proj"),
    "llama2_70b": ("meta-llama/Llama-2-70b-hf", 4096, 3e-5, 8, "gate_proj, down_proj, up_proj"),
    "qwen_7b": ("Qwen/Qwen-7B", 2048, 3e-4, 64, "w1, w2, mlp.c_proj"),
    "qwen_14b": ("Qwen/Qwen-14B", 4096, 3e-4, 64, "w1, w2, mlp.c_proj"),
    "mistral_7b": ("mistralai/Mistral-7B-v0.1", 2048, 3e-6, 4, "gate_proj, down_proj, up_proj"),
    "phi2": ("microsoft/phi-2", 2048, 2e-4, 64, "fc1, fc2"),
}


def test_every_preset_is_of_a_type_that_may_be_cut():
    assert {path.stem for path in conf_dir().glob("model/*.yaml")} == {
        *TYPES, *OWN_CODE, *ANY
    }  # fmt: skip
    assert set(TYPES.values()) <= VERIFIED


@pytest.mark.parametrize("name", sorted({*TYPES, *OWN_CODE}))
def test_a_preset_is_named_as_its_file_and_says_its_family(name):
    model = compose(f"model={name}").model
    assert model.name == name
    assert model.family
    assert model.path.startswith("package:") or model.path.count("/") == 1
    if name not in PAPER and not model.path.startswith("package:"):
        facts = HealingFacts(sequence_length=READS.get(name, 2048))
        assert model.healing == facts, "nobody has measured what heals it"


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_models_and_how_they_are_healed(name):
    path, length, rate, rank, targets = PAPER[name]
    config = compose(f"model={name}", "heal=qlora")
    assert config.model.path == path
    heal = config.heal
    assert (heal.sequence_length, heal.learning_rate, heal.rank) == (length, rate, rank)
    assert (heal.steps, heal.batch_size, heal.warmup_steps) == (5000, 16, 100)
    assert heal.dropout == 0.05
    assert heal.targets == targets.split(", ")
