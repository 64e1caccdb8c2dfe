"""Memory and speed by arithmetic, held against real models; what cannot be, and what is near."""

import pytest
import torch
from tiny import tiny
from torch.utils.flop_counter import FlopCounterMode

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ExportConfig, FitConfig, Quantization
from layerprune.errors import UserError
from layerprune.estimate.shape import shape_of_model
from layerprune.model.surgery import drop_layers
from layerprune.search.budget import (
    ModelSize,
    fewest_layers,
    refuse_impossible,
    size_of_folder,
    size_of_parameters,
    speedups,
)

pytestmark = pytest.mark.quick

HF = ExportConfig(format="hf")


def test_the_size_of_a_cut_model_is_that_of_its_weights(tiny_folder):
    size = size_of_folder(tiny_folder, HF)
    for count in (0, 3, 7):
        model = drop_layers(tiny("llama", vocab_size=259), range(count))
        assert size.bytes(model.num_parameters()) == 4 * model.num_parameters()
        assert size.bytes_by_dropped[count] == pytest.approx(4 * model.num_parameters(), rel=1e-3)


def test_a_size_in_fewer_bits_leaves_embeddings_as_they_are(tiny_folder):
    export = ExportConfig(format="hf", dtype=Dtype.bfloat16, quantization=Quantization.int8)
    size = size_of_folder(tiny_folder, export)
    layers = size.num_layers * size.layer
    assert size.bytes(size.outside + layers) == 2 * size.outside + layers
    assert size.form == "int8"


def test_the_size_follows_from_what_cut_models_had():
    found = size_of_parameters([1000 + 50 * left for left in (4, 3, 2, 1)], Dtype.float32, HF)
    assert (found.layer, found.outside, found.num_layers) == (50, 1000, 4)


def test_tied_embeddings_count_once(tmp_path):
    model = tiny("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    assert size_of_folder(tmp_path, HF).bytes_by_dropped[0] == 4 * model.num_parameters()


def test_operations_are_those_that_pytorch_counts():
    ids_BT = torch.arange(64)[None]
    speedup_N = speedups(shape_of_model(tiny("llama")), seen=64)
    counted = []
    for count in (0, 4, 7):
        model = drop_layers(tiny("llama"), range(count))
        model.set_attn_implementation("eager")  # of other kernels not all is counted
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(ids_BT)
        counted.append(counter.get_total_flops())
        assert counted[0] / counted[-1] == pytest.approx(speedup_N[count], rel=0.02)


def test_no_more_layers_go_than_memory_and_speed_need():
    size = ModelSize(4, 100.0, 200.0, Dtype.float32, None)
    assert size.bytes_by_dropped == [2400, 2000, 1600, 1200]
    for memory, fewest in (("2400", 0), ("2399", 1), ("2000", 1), ("1200", 3)):
        fit = FitConfig(memory=memory)
        assert fewest_layers(fit, size, size.bytes_by_dropped, [], "")[0] == fewest
    ratios = [1.0, 1.2, 1.5, 2.0]
    for speedup, fewest in ((1.1, 1), (1.2, 1), (1.5, 2), (2.0, 3)):
        assert fewest_layers(FitConfig(speedup=speedup), None, [], ratios, "time")[0] == fewest
    both = FitConfig(memory="2000", speedup=1.5)
    assert fewest_layers(both, size, size.bytes_by_dropped, ratios, "") == (2, "fit.speedup=1.5")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["fit.memory=20MB"], ["fit.memory=20MB", "60.8 MiB", "fit.memory=61MiB"]),
        (["fit.speedup=40"], ["fit.speedup=40", "4.46 times", "fit.speedup=4.45"]),
        (["model=llama2_7b", "fit.memory=100MB"], ["fit.memory=100MB", "bfloat16", "nf4"]),
        (["model=llama2_7b", "fit.speedup=40"], ["fit.speedup=40", "times at most", "or less"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_the_impossible_is_refused_by_a_models_shape_with_what_is_near(overrides, words):
    config = compose(*overrides)
    with pytest.raises(UserError) as caught:
        refuse_impossible(config)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("near", ["fit.memory=61MiB", "fit.speedup=4.45"])
def test_what_is_said_to_be_near_is_not_refused(near):
    config = compose(near)
    refuse_impossible(config)
