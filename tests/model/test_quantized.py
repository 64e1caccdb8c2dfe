"""A model whose weights are held in few bits is cut, asked and told apart like any other."""

import pytest
import torch
from bitsandbytes.nn import Int8Params
from families import TINY
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ModelConfig, Quantization
from layerprune.errors import UserError
from layerprune.model.load import load
from layerprune.model.quantized import bnb_config, quantized_part, weight_bytes
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers, dropped
from layerprune.run.pipeline import run

IDS_BT = torch.randint(0, 200, (2, 24), generator=torch.Generator().manual_seed(2))
SIZES = {"vocab_size": 259, "hidden_size": 64, "intermediate_size": 128}
WIDER = {"falcon": {"ffn_hidden_size": 128}, "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64}}
HELD = list(Quantization)


def saved(model, folder):
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return locate(ModelConfig(path=str(folder)), folder.parent / "cache")


def loaded(source, held):
    return load(source, Dtype.float32, "cpu", held).model


def logits(model):
    with torch.inference_mode():
        return model(IDS_BT).logits


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(tiny("llama", **SIZES), tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.value)
@pytest.mark.parametrize("family", sorted(TINY))
def test_dropping_from_few_bits_is_dropping_before_them(family, held, tmp_path):
    sizes = {**SIZES, **WIDER.get(family, {})}
    if family in ("gemma", "gemma2", "gemma3_text", "qwen3"):
        sizes["head_dim"] = 16
    source = saved(tiny(family, **sizes), tmp_path / "whole")
    if family == "falcon":
        with pytest.raises(UserError, match="none of the weights of a falcon"):
            loaded(source, held)
        return
    before = saved(drop_layers(tiny(family, **sizes), [2, 3, 6]), tmp_path / "cut")
    cut, reference = drop_layers(loaded(source, held), [2, 3, 6]), loaded(before, held)
    assert torch.equal(logits(cut), logits(reference))
    assert not torch.equal(logits(cut), logits(loaded(before, None)))


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.value)
def test_parameters_are_counted_as_weights_not_as_bytes(source, held):
    model, plain = loaded(source, held), loaded(source, None)
    assert model.num_parameters() == plain.num_parameters()
    with dropped(model, [1, 2]), dropped(plain, [1, 2]):
        assert model.num_parameters() == plain.num_parameters()


def saved_bytes(shape, held):
    """Of one matrix: its numbers, and what tells their scale, as bitsandbytes writes them down.

    NF4 (Dettmers et al., arXiv 2305.14314): 4 bits each, 8 for the scale of 64, 32 for the scale of
    256 scales, and tables of the 16 and the 256 numbers that these bits stand for. LLM.int8 (arXiv
    2208.07339): 8 bits each, 32 for the scale of a row, and a byte that says which way they lie.
    """
    rows, columns = shape
    count = rows * columns
    if held is Quantization.int8:
        return count + 4 * rows + 1
    return count // 2 + count // 64 + 4 * -(-count // (64 * 256)) + 4 * 16 + 4 * 256


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.value)
def test_bytes_of_weights_are_those_of_their_few_bits_and_scales(source, held):
    plain, model = loaded(source, None), loaded(source, held)
    for layers in ([], [1, 2, 5]):
        with dropped(plain, layers), dropped(model, layers):
            few = [each for name, each in plain.named_parameters() if "_proj" in name]
            others = plain.num_parameters() - sum(each.numel() for each in few)
            assert weight_bytes(plain) == 4 * plain.num_parameters()
            expected = 4 * others + sum(saved_bytes(each.shape, held) for each in few)
            # Sizes and types in words come with each matrix of NF4.
            words = 0 if held is Quantization.int8 else 200 * len(few)
            assert expected <= weight_bytes(model) <= expected + words


def settings(source, tasks, outputs, *overrides):
    return compose(
        "model=custom", f"model.path={source.folder}", "eval.tasks=[letters]",
        f"eval.include_path={tasks}",
        "eval.trust_task_code=true", f"runtime.outputs={outputs}", "tracker=disabled",
        "data.sequence_length=32", "data.calibration_sequences=8", "data.heldout_sequences=4",
        "prune.layers=[3,4,5]", *overrides,
    )  # fmt: skip


def test_each_form_has_points_distances_and_answers_of_its_own(source, tiny_tasks, tmp_path):
    points = {
        held: run(settings(source, tiny_tasks, tmp_path, f"model.quantization={held}"))[0]
        for held in ("null", "nf4", "int8")
    }
    for held, point in points.items():
        assert point.identity["model"].get("quantization") == (None if held == "null" else held)
        assert point.model.parameters_kept == points["null"].model.parameters_kept
        assert point.loss.nats == pytest.approx(points["null"].loss.nats, rel=0.1)
    sizes = [points[held].model.weight_bytes for held in ("null", "int8", "nf4")]
    assert sizes == sorted(sizes, reverse=True)
    for what in ("key", "loss"):
        assert len({str(getattr(point, what)) for point in points.values()}) == 3
    assert len({point.plan.profile for point in points.values()}) == 3
    assert len(list((tmp_path / "cache" / "answers").iterdir())) == 3


def test_an_export_has_the_original_weights(source, tiny_tasks, tmp_path):
    (point,) = run(settings(source, tiny_tasks, tmp_path, "model.quantization=nf4", "export=hf"))
    folder = tmp_path / "default" / "points" / point.key / "model"
    weights = load_file(folder / "model.safetensors")
    original = drop_layers(loaded(source, None), [3, 4, 5]).state_dict()
    assert weights.keys() == original.keys()
    assert all(torch.equal(weights[name], value) for name, value in original.items())
    assert "Evaluated in float32 with weights in nf4" in " ".join(
        (folder / "README.md").read_text().split()
    )


def test_what_is_quantised_already_is_not_quantised_again(source, tmp_path):
    loaded(source, Quantization.nf4).save_pretrained(tmp_path / "nf4")
    byte_tokenizer().save_pretrained(tmp_path / "nf4")
    packed = locate(ModelConfig(path=str(tmp_path / "nf4")), tmp_path / "cache")
    with pytest.raises(UserError, match=r"model\.quantization=int8.*quantised already"):
        loaded(packed, Quantization.int8)


def test_a_model_whose_weights_are_mostly_not_held_so_is_told_of(tmp_path, capsys):
    source = saved(tiny("mixtral", **SIZES, num_local_experts=4), tmp_path / "experts")
    loaded(source, Quantization.nf4)
    assert "only linear layers are quantised" in " ".join(capsys.readouterr().err.split())


def test_int8_weights_are_quantised_where_they_are(monkeypatch):
    """bitsandbytes' own `to` leaves a weight that is on a GPU as it is, at twice the bytes."""
    torch.manual_seed(0)
    part, expected = torch.nn.Linear(64, 32), torch.randn(32, 64)
    part.weight.data.copy_(expected)
    reference = Int8Params(expected.clone(), requires_grad=False).to("cpu")
    part._bnb_config = bnb_config(Quantization.int8, Dtype.float32)
    real = Int8Params.to

    def on_gpu(self, *args, **kwargs):
        return real(self, *args, **kwargs) if self.dtype == torch.int8 else self

    monkeypatch.setattr(Int8Params, "to", on_gpu)
    weight = quantized_part(part).weight
    assert weight.dtype == torch.int8
    assert torch.equal(weight.data, reference.data)
    assert torch.equal(weight.SCB, reference.SCB)
    assert part._quantized_bytes == 32 * 64 + 32 * 4 + 1  # weights, scales, their layout
