"""A model whose files do not fit its configuration is refused in a line that says what to mend."""

import json
import random

import pytest
import torch
from families import TINY
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, tiny

from layerprune.config.schema import Dtype, ModelConfig
from layerprune.errors import UserError
from layerprune.model.load import META, load, open_model
from layerprune.model.source import locate

WRONG_VALUES = ("nonsense", "1e-5", -1, 0, 2.5, [], ["full_attention"] * 3, {"a": 1}, None, True)


@pytest.fixture
def folder(tmp_path):
    tiny("llama", vocab_size=259).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder, reason):
    with pytest.raises(UserError, match=reason):
        load(locate(ModelConfig(path=str(folder)), folder / "cache"), Dtype.float32, "cpu")


def test_a_weight_that_no_part_reads_is_named(folder):
    content = load_file(folder / "model.safetensors")
    content["model.adapter.weight"] = torch.ones(2)
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"holds weights that a model of its config\.json does not have \(1, the first")


def test_a_buffer_of_old_files_is_no_weight(folder):
    content = load_file(folder / "model.safetensors")
    content["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    load(locate(ModelConfig(path=str(folder)), folder / "cache"), Dtype.float32, "cpu")


def test_a_vocabulary_of_another_size_is_named_with_both(folder):
    edit(folder / "config.json", vocab_size=300)
    refused(folder, r"other shapes .*\[259, 32\] instead of \[300, 32\]")


def test_an_adapter_beside_the_weights_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, r"a LoRA adapter \(adapter_config\.json\)")


def test_a_folder_without_a_tokenizer_is_told_what_it_lacks(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused(folder, "has no tokenizer")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("hidden_act", "nonsense", "hidden_act=nonsense"),
        ("rms_norm_eps", "1e-5", "rms_norm_eps"),
        ("pad_token_id", 259, r"its config\.json \(.*pad_token_id=259.*[Pp]adding_idx"),
    ],
)
def test_a_wrong_field_is_named(folder, field, value, reason):
    edit(folder / "config.json", **{field: value})
    refused(folder, reason)


def test_outputs_are_read_by_name_whatever_the_configuration_says(folder):
    edit(folder / "config.json", return_dict=False)
    model = load(locate(ModelConfig(path=str(folder)), folder / "cache"), None, "cpu").model
    assert model(torch.arange(4)[None]).logits.shape == (1, 4, 259)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(TINY))
def test_no_value_of_any_field_ends_in_another_exception(family, tmp_path):
    """Every field of the family's configuration, with a value of another kind, drawn by family."""
    tiny(family).save_pretrained(tmp_path)
    own = json.loads((tmp_path / "config.json").read_text())
    draw = random.Random(family)
    for field in own:
        values = [value for value in WRONG_VALUES if type(value) is not type(own[field])]
        (tmp_path / "config.json").write_text(json.dumps(own | {field: draw.choice(values)}))
        try:
            source = locate(ModelConfig(path=str(tmp_path)), tmp_path / "cache")
            open_model(source, Dtype.float32, META)
        except UserError as error:
            reason = str(error)
            assert reason.startswith("model.path") or own["model_type"] in reason, reason
            assert not reason.rstrip(" .").endswith(":"), reason
