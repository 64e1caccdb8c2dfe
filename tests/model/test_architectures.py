"""docs/architectures.md tells the truth, and the code refuses what it says is refused."""

import re
from pathlib import Path

import pytest
from architectures import TYPES, tiny_architecture
from asked import FEW, answers, close
from equalities import CUTS, causal, parts, verdicts

from layerprune.model.refused import NOT_DECODERS, REFUSED
from layerprune.model.stack import UnsupportedArchitecture
from layerprune.model.surgery import drop_layers, refuse_unverified
from layerprune.model.verified import NEED_ALL_POSITIONS, NEED_FULL_FORWARD, VERIFIED

pytestmark = pytest.mark.slow

TABLE = {
    row[1]: (row[2], row[3])
    for row in re.finditer(
        r"^\| ([\w-]+) \| ([^|]*) \| (.*) \|$",
        (Path(__file__).parents[2] / "docs/architectures.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    if row[1] != "type"
}
SUPPORTED = [name for name, (verdict, _) in TABLE.items() if verdict == "supported"]
LARGE = ("deepseek_v4", "dots3_note_text", "qwen4_exp", "qwen4_exp_text")
"""Types whose tiny models take ten seconds, for `make architectures` alone."""


def test_the_table_has_every_type_that_transformers_knows():
    assert list(TABLE) == list(TYPES)


def test_what_is_accepted_is_what_the_table_says_is_supported():
    assert set(SUPPORTED) == VERIFIED & set(TYPES)
    assert {
        name for name in SUPPORTED if "in one piece" in TABLE[name][1]
    } == NEED_FULL_FORWARD & set(TYPES)
    assert {name for name in SUPPORTED if "at all positions" in TABLE[name][1]} == (
        NEED_ALL_POSITIONS & set(TYPES)
    )
    assert {name for name, (verdict, _) in TABLE.items() if verdict == "not a decoder LM"} == set(
        NOT_DECODERS
    )
    assert not VERIFIED & (set(REFUSED) | set(NOT_DECODERS))


@pytest.mark.parametrize("name", sorted(set(TYPES) - VERIFIED))
def test_others_are_refused_by_name_with_a_reason(name):
    with pytest.raises(UnsupportedArchitecture, match=f"^{re.escape(name)}: dropping layers"):
        refuse_unverified(name)
    assert TABLE[name][1], "a reason"


@pytest.mark.parametrize("name", [name for name in SUPPORTED if name not in LARGE])
def test_a_supported_type_holds_the_equalities_for_one_cut(name, tmp_path):
    model = tiny_architecture(name)
    assert not causal(model)
    cut = possible(name, TYPES.index(name))[0]
    assert verdicts(model, tmp_path, [cut]) == {str(cut): "equal"}
    if name not in NEED_FULL_FORWARD:
        assert parts(model) in (("", "positions") if name in NEED_ALL_POSITIONS else ("",))


def possible(name, vary):
    """Cuts that the table does not call refused; which comes first depends on the type."""
    at = vary % len(CUTS)
    return [cut for cut in (*CUTS[at:], *CUTS[:at]) if str(cut) not in TABLE[name][1]]


@pytest.mark.parametrize("name", [name for name in SUPPORTED if name not in LARGE])
def test_a_supported_type_answers_as_lm_evals_own_backend_lets_it(name):
    model = tiny_architecture(name, vocab_size=259)
    paths = [
        tuple(at for at in range(8) if at not in cut)
        for cut in possible(name, TYPES.index(name) + 2)[:2]
    ]
    for found, expected in answers(model, paths, FEW):
        for (value, greedy), (wanted, wanted_greedy) in zip(found, expected, strict=True):
            assert (value, greedy) == (close(wanted), wanted_greedy)


REFUSALS = [
    ("jamba", {}, [2, 3, 4], "expert_layer_period cannot describe layers"),
    ("jamba", {"attn_layer_period": 3, "attn_layer_offset": 0}, [1], "attn_layer_period cannot"),
    ("modernbert-decoder", {}, [0], "attn_norm"),
    ("gpt_neox_japanese", {}, [7], "dense_bias"),
    ("diffllama", {}, [2], "lambda_init"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, [1], "scale_attn_by_inverse_layer_idx"),
    ("gemma4_text", {"num_kv_shared_layers": 2}, [1], "num_kv_shared_layers=2"),
    ("gemma4_text", {"hidden_size_per_layer_input": 8}, [1], "hidden_size_per_layer_input=8"),
    ("glm_moe_dsa", {}, [0], "indexer_types, layer 1"),
    ("qwen3_next", {"layer_types": ["linear_attention"] * 7 + ["full_attention"]}, [7],
     "by layer_types, no layer with attention would remain"),
    ("bert", {"is_decoder": False}, [1], "is_decoder=False"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "cut", "reason"), REFUSALS, ids=str)
def test_a_cut_that_no_configuration_describes_is_refused_unchanged(name, changes, cut, reason):
    model = tiny_architecture(name, **changes)
    before = model.config.to_dict(), list(model.state_dict())
    with pytest.raises(UnsupportedArchitecture, match=reason):
        drop_layers(model, cut)
    assert (model.config.to_dict(), list(model.state_dict())) == before


DESCRIBED = [
    ("qwen3_moe", {"decoder_sparse_step": 3, "mlp_only_layers": [2]}, [1, 4]),
    ("ernie4_5_moe", {"moe_layer_start_index": 3, "moe_layer_end_index": 6}, [0, 4]),
    ("llama4_text", {"no_rope_layer_interval": 3, "interleave_moe_layer_step": 2}, [1, 4]),
    ("laguna", {"num_attention_heads_per_layer": [2, 4] * 4}, [1, 4]),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention"] * 4}, [1, 4]),
    ("granite_swa", {"layer_rope_theta": [0, 1e4, 1e5, 0, 1e3, 1e4, 0, 1e5]}, [1, 4]),
    ("gpt_neo", {"attention_types": [[["global", "local", "local"], 2], [["global"], 2]]}, [0, 4]),
    ("recurrent_gemma", {"block_types": ["recurrent", "recurrent", "attention"]}, [0, 3]),
]


@pytest.mark.parametrize(("name", "changes", "cut"), DESCRIBED, ids=str)
def test_patterns_become_what_describes_the_layers_that_stay(name, changes, cut, tmp_path):
    assert verdicts(tiny_architecture(name, **changes), tmp_path, [cut]) == {str(cut): "equal"}


def test_code_that_comes_with_files_is_refused():
    model = tiny_architecture("llama")
    model.config.model_type = "somebody_elses"
    with pytest.raises(UnsupportedArchitecture, match="somebody_elses"):
        drop_layers(model, [1])
