"""A model whose weights are offloaded gives the results that it gives in memory."""

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.utils import OffloadedWeightsLoader
from equalities import IDS_BT, logits
from families import TINY
from tiny import byte_tokenizer, tiny

import layerprune
from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ModelConfig, Quantization, Tokens
from layerprune.evaluate.scorer import Scorer
from layerprune.model import load, offload
from layerprune.model.offload import OffloadPlan, bytes_on_disk, devices, input_device, prefetching
from layerprune.model.source import locate
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.prune.hidden_states import mean_distances
from layerprune.prune.lazy_greedy import extend_lazily
from layerprune.prune.metrics.angular import Angular
from layerprune.prune.removal_order import RemovalOrder
from layerprune.run import dense, pipeline
from layerprune.runtime.atomic_files import scratch_folder
from layerprune.shared_forward import spill
from layerprune.shared_forward.losses import sequence_losses
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import layer_runs

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PATHS = [tuple(range(8)), (0, 1, 2, 6, 7), (0, 3, 4, 5, 6, 7)]


def on_disk(model, folder):
    """Embeddings, some layers and the head on disk, all others in memory."""
    stack = decoder_stack(model)
    paths = {part: path for path, part in model.named_modules()}
    away = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    away |= {id(layer) for layer in stack.layers[2:6]}
    where = {}

    def place(part):
        parts = dict(part.named_children())
        if id(part) in away:
            where[paths[part]] = "disk"
        elif any(id(each) in away for each in part.modules()):
            for each in parts.values():
                place(each)
        else:
            where[paths[part]] = "cpu"

    place(model)
    return dispatch_model(
        model, where, offload_dir=folder, skip_keys=model._skip_keys_device_placement
    )


def all_offloaded(model, folder):
    return cpu_offload(model, CPU)


WAYS = [on_disk, all_offloaded]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def spread(request, tmp_path):
    def make(family, **changes):
        return request.param(tiny(family, **changes), tmp_path / family)

    return make


@pytest.mark.parametrize("family", sorted(TINY))
def test_the_cut_is_the_same(spread, family):
    model, plain = spread(family), tiny(family)
    assert any(part.is_meta for part in model.parameters())
    assert input_device(model) == CPU
    assert devices(model) == [CPU]
    torch.testing.assert_close(logits(model), logits(plain), atol=1e-6, rtol=1e-6)
    drop_layers(model, [1, 3, 4])
    drop_layers(plain, [1, 3, 4])
    torch.testing.assert_close(logits(model), logits(plain), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", ["falcon", "gemma3_text", "gpt2", "llama", "mixtral"])
def test_what_is_measured_is_the_same(spread, family):
    model, plain = spread(family), tiny(family)
    found, expected = (
        sequence_losses(each, IDS_BT, PATHS, "", MemoryBudget.of(each)) for each in (model, plain)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    orders = [RemovalOrder("k", {}), RemovalOrder("k", {})]
    for each, order in zip((model, plain), orders, strict=True):
        with torch.inference_mode():
            extend_lazily(each, IDS_BT, order, 3)
    assert orders[0].layers == orders[1].layers


def test_distances_and_answers_are_the_same(spread):
    tokenizer, sizes = byte_tokenizer(), {"vocab_size": 259, "max_position_embeddings": 512}
    model, plain = spread("llama", **sizes), tiny("llama", **sizes)
    texts = ["A text.", "Another text, a little longer."]
    found, expected = (layerprune.profile(each, tokenizer, texts) for each in (model, plain))
    np.testing.assert_allclose(found, expected, atol=1e-7)
    requests = [
        (("", ""), tokenizer(context)["input_ids"], tokenizer(option)["input_ids"])
        for context in ("One two", "One three four")
        for option in (" five", " six")
    ]
    answers = []
    for each in (model, plain):
        scorer = Scorer(each, tokenizer, paths=PATHS)
        assert scorer.device == CPU
        answers.append(scorer._loglikelihood_tokens(requests))
    for (value, greedy), (wanted, wanted_greedy) in zip(*answers, strict=True):
        assert value == pytest.approx(wanted, abs=1e-5)
        assert greedy == wanted_greedy


def points(folder, outputs, tasks, *overrides):
    """What a run says of the model in `folder`."""
    return pipeline.run(compose(
        "model=custom", f"model.path={folder}", "eval.tasks=[letters]",
        f"eval.include_path={tasks}",
        "eval.trust_task_code=true", f"runtime.outputs={outputs}", "tracker=disabled",
        "data.sequence_length=32", *overrides,
    ))  # fmt: skip


class Little(OffloadPlan):
    """As on a machine whose memory is smaller than the model."""

    def __init__(self):
        super().__init__()
        self.arguments["max_memory"] = {"cpu": 120_000}


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_run_whose_model_does_not_fit_into_memory(family, tiny_tasks, tmp_path, monkeypatch):
    tiny(family, vocab_size=259, max_position_embeddings=512).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")

    def run(outputs, *overrides):
        return points(
            tmp_path / "model", tmp_path / outputs, tiny_tasks, "data.calibration_sequences=8",
            "data.heldout_sequences=4", "prune.fraction=[0,0.25,0.5]", *overrides,
        )  # fmt: skip

    seen = []
    monkeypatch.setattr(load, "OffloadPlan", Little)
    monkeypatch.setattr(dense, "load", lambda *given: seen.append(load.load(*given)) or seen[-1])
    spread, plain = run("spread", "runtime.device_map=auto"), run("plain")
    assert any(part.is_meta for part in seen[0].model.parameters())
    for one, other in zip(spread, plain, strict=True):
        assert one.key == other.key
        assert one.plan.dropped == other.plan.dropped
        assert one.loss.nats == pytest.approx(other.loss.nats, abs=1e-6)
        assert one.scores == other.scores


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_a_model_of_which_one_layer_is_in_memory(family, tokens, tiny_tasks, tmp_path, monkeypatch):
    small = tiny(family, vocab_size=259, max_position_embeddings=512)
    small.to(torch.bfloat16).save_pretrained(tmp_path / "model", max_shard_size="50KB")
    byte_tokenizer().save_pretrained(tmp_path / "model")

    def run(outputs, *overrides):
        return points(
            tmp_path / "model", tmp_path / outputs, tiny_tasks, "data.calibration_sequences=20",
            "data.heldout_sequences=20", "prune.fraction=[0,0.25,0.5,0.75]",
            f"metric.tokens={tokens}", *overrides,
        )  # fmt: skip

    plain = run("plain")
    models, reads = [], Counter()

    def seen(*given):
        models.append(load.load(*given))
        for number, layer in enumerate(decoder_stack(models[-1].model).layers):
            of_weights(layer, number, reads)
        return models[-1]

    monkeypatch.setattr(dense, "load", seen)
    streamed = run("streamed", "runtime.stream=true")
    (loaded,) = models
    layers = decoder_stack(loaded.model).layers
    assert all(weight.is_meta for weight in layers.parameters())
    assert not any(weight.is_meta for weight in loaded.model.get_input_embeddings().parameters())
    # Distances, held-out text and questions in a pass each; whether trees are taken, on top. The
    # first layer is also the one whose speed is measured.
    assert max(reads.values()) == reads[0] <= 1 + 3 + 4
    assert max(reads[number] for number in range(1, 8)) <= 3 + 4
    for one, other in zip(streamed, plain, strict=True):
        assert one.key == other.key
        assert one.plan.dropped == other.plan.dropped
        assert one.loss.nats == pytest.approx(other.loss.nats, abs=1e-5)
        assert one.scores == other.scores


@pytest.mark.parametrize("held", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_layers_held_in_few_bits_once_they_are_read(family, held, tiny_tasks, tmp_path):
    sizes = {"vocab_size": 259, "max_position_embeddings": 512, "hidden_size": 64}
    tiny(family, **sizes, intermediate_size=128).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")

    def run(outputs, *overrides):
        return points(
            tmp_path / "model", tmp_path / outputs, tiny_tasks, "data.calibration_sequences=8",
            "data.heldout_sequences=4", "prune.fraction=[0,0.5]", *overrides,
        )  # fmt: skip

    few = f"model.quantization={held}"
    whole, plain, streamed = (
        run("whole"),
        run("plain", few),
        run("stream", few, "runtime.stream=true"),
    )
    for one, other, unquantised in zip(streamed, plain, whole, strict=True):
        assert (one.key, one.plan, one.scores, one.model) == (
            other.key, other.plan, other.scores, other.model,
        )  # fmt: skip
        assert one.model.weight_bytes < unquantised.model.weight_bytes
        assert one.loss.nats == pytest.approx(other.loss.nats, abs=1e-6)
        assert one.loss.nats != pytest.approx(unquantised.loss.nats, abs=1e-4)


@pytest.mark.parametrize("held", list(Quantization))
def test_a_whole_pass_has_few_bits_too(held, tmp_path):
    """Text that is written goes through the decoder as it is, not by layers."""
    tiny("llama", vocab_size=259, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    source = locate(ModelConfig(path=str(tmp_path)), tmp_path / "cache")
    plain, streamed, whole = (
        load.load(source, Dtype.float32, "cpu", few, stream=stream).model
        for few, stream in ((held, False), (held, True), (None, True))
    )
    with torch.inference_mode():
        found, expected, other = (each(IDS_BT).logits for each in (streamed, plain, whole))
    assert torch.equal(found, expected)
    assert not torch.equal(found, other)


def test_states_that_wait_on_disk(tiny_tasks, tmp_path, monkeypatch):
    small = tiny("llama", vocab_size=259, max_position_embeddings=512)
    small.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    seen, real = [], spill._SpilledTensor.__init__

    def noted(self, tensor, path):
        real(self, tensor, path)
        seen.append((path, len(list(path.parent.iterdir()))))

    monkeypatch.setattr(spill._SpilledTensor, "__init__", noted)

    def run(outputs, *overrides):
        return points(
            tmp_path / "model", tmp_path / outputs, tiny_tasks, "data.calibration_sequences=20",
            "data.heldout_sequences=20", "prune.fraction=[0,0.25,0.5,0.75]", "metric.tokens=all",
            "runtime.stream=true", *overrides,
        )  # fmt: skip

    plain = run("plain")
    assert not seen
    spilled = run("spilled", "runtime.spill=true")
    assert len({path for path, _ in seen}) == len(seen) > 8
    assert max(count for _, count in seen) < len(seen), "a state goes when nobody waits for it"
    (folder,) = {path.parent for path, _ in seen}
    assert folder.parent == tmp_path / "spilled" / "cache"
    assert not folder.exists()
    for one, other in zip(spilled, plain, strict=True):
        assert one.plan.dropped == other.plan.dropped
        assert (one.loss, one.scores) == (other.loss, other.scores)


def test_what_a_killed_run_left_of_its_states_goes_with_the_next(tmp_path):
    with scratch_folder(tmp_path / "states") as held:
        left = tmp_path / f"{held.name}x"
        (left / "in").mkdir(parents=True)
        with scratch_folder(tmp_path / "states") as other:
            assert held.is_dir()
            assert other.is_dir()
            assert held != other
            assert not left.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["llama", "mixtral"])  # the latter's experts are joined
def test_files_are_read_ahead_of_the_layer_that_runs(family, tmp_path, monkeypatch):
    tiny(family, vocab_size=259).save_pretrained(tmp_path / "model", max_shard_size="50KB")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    source = locate(ModelConfig(path=str(tmp_path / "model")), tmp_path / "cache")
    model = load.load(source, Dtype.float32, "cpu", stream=True).model
    layers = list(decoder_stack(model).layers)
    for layer in layers:
        shapes = [weight.numel() for weight in layer.parameters()]
        assert bytes_on_disk(layer) == 4 * sum(shapes)
    ahead = []
    monkeypatch.setattr(offload, "_read_ahead", ahead.append)
    with prefetching(layers[at] for at in (0, 2, 5)) as read:
        for at in (0, 2, 5):
            with read(layers[at]):
                assert not any(weight.is_meta for weight in layers[at].parameters())
            assert all(weight.is_meta for weight in layers[at].parameters())
    assert ahead == [layers[2], layers[5]]


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_thread_reads_layers_for_a_gpu_into_pinned_memory(family, tmp_path, monkeypatch):
    tiny(family, vocab_size=259).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    source = locate(ModelConfig(path=str(tmp_path / "model")), tmp_path / "cache")
    model = load.load(source, Dtype.float32, "cpu", stream=True).model
    layers, events = list(decoder_stack(model).layers), Counter()
    expected = [layer.state_dict() for layer in decoder_stack(tiny(family, vocab_size=259)).layers]

    def count(event):
        main = threading.current_thread() is threading.main_thread()
        events[event, "main" if main else "thread"] += 1

    read = OffloadedWeightsLoader.__getitem__
    monkeypatch.setattr(
        OffloadedWeightsLoader, "__getitem__", lambda *given: count("read") or read(*given)
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: count("pin") or self.clone())
    monkeypatch.setattr(offload, "_runs_on_cpu", lambda layer: False)
    hooks = [hook for part in model.modules() for hook in offload._hooks(part) if hook]
    maps = [getattr(hook, "weights_map", None) for hook in hooks]
    with prefetching(layers[at] for at in (0, 2, 5)) as loaded:
        for at in (0, 2, 5):
            with loaded(layers[at]):
                found = layers[at].state_dict()
                torch.testing.assert_close(dict(found), dict(expected[at]), rtol=0, atol=0)
            assert all(weight.is_meta for weight in layers[at].parameters())
    weights = len(expected[0])
    assert events == {
        ("read", "main"): weights, ("read", "thread"): 2 * weights, ("pin", "thread"): 2 * weights,
    }  # fmt: skip
    assert all(
        getattr(hook, "weights_map", None) is kept for hook, kept in zip(hooks, maps, strict=True)
    )


def test_questions_that_begin_differently_share_a_pass(tmp_path):
    model = all_offloaded(tiny("llama", vocab_size=259, max_position_embeddings=512), tmp_path)
    plain, tokenizer = tiny("llama", vocab_size=259, max_position_embeddings=512), byte_tokenizer()
    requests = [
        (("", ""), tokenizer(start * 100 + question)["input_ids"], tokenizer(" x")["input_ids"])
        for start in "abc"
        for question in ("one", "two", "three", "four")
    ]
    found = []
    for each, memory_budget, passes in ((model, 10**6, 1), (model, 300, 3), (plain, 10**6, None)):
        reads = Counter()
        scorer = Scorer(
            each, tokenizer, paths=PATHS, memory_budget=MemoryBudget(64, memory_budget, 10**6)
        )
        assert scorer._branching
        if passes:
            of_weights(decoder_stack(model).layers[7], 7, reads)
        found.append(scorer._loglikelihood_tokens(requests))
        if passes:
            assert reads[7] == passes
    for answers in zip(*found, strict=True):
        for value, greedy in answers[:2]:
            assert (value, greedy) == (pytest.approx(answers[2][0], abs=1e-5), answers[2][1])


def test_what_passes_will_take_is_said_before_they_start(tmp_path, capsys):
    tiny("llama", vocab_size=259).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    source = locate(ModelConfig(path=str(tmp_path / "model")), tmp_path / "cache")
    model = load.load(source, Dtype.float32, "cpu", stream=True).model
    reads = Counter()
    of_weights(decoder_stack(model).layers[7], 7, reads)
    ids_ST = torch.randint(0, 200, (12, 16), generator=torch.Generator().manual_seed(0))
    sequence_losses(model, ids_ST, PATHS, "held-out loss", MemoryBudget(32, 200, 10**6))
    said = capsys.readouterr().err
    size = sum(bytes_on_disk(layer) for layer in decoder_stack(model).layers)
    runs = layer_runs(PATHS)
    assert f"8 of 8 layers of {size / 8 / 1e6:.1f} MB are read {reads[7]} times" in said
    assert f"{reads[7] * size / 1e6:.1f} MB in all" in said
    assert f"192 tokens run through {runs} layers" in said
    sequence_losses(
        tiny("llama", vocab_size=259), ids_ST, PATHS, "held-out loss", MemoryBudget(32, 200, 10**6)
    )
    assert not capsys.readouterr().err, "there is nothing to read for a model in memory"


def of_weights(layer, number, reads):
    """Count how often one of a layer's matrices is read."""
    part = next(part for part in layer.modules() if getattr(part, "weight", None) is not None)
    hook, real = part._hf_hook, part._hf_hook.pre_forward

    def counted(*args, **kwargs):
        reads[number] += 1
        return real(*args, **kwargs)

    hook.pre_forward = counted


def test_a_pass_by_layers_keeps_to_its_memory(tmp_path):
    model = all_offloaded(tiny("llama"), tmp_path)
    reads = Counter()
    for number, layer in enumerate(decoder_stack(model).layers):
        of_weights(layer, number, reads)
    batches = [(ids_BT, torch.tensor([21])) for ids_BT in IDS_BT.repeat(2, 1).split(1)]
    metric, matrices = Angular(tokens=Tokens.last), []
    # Of 21 tokens with 32 numbers each, what goes in and what comes out: half of a budget.
    for memory, passes in ((2 * 2 * 21 * 32 * 4 * 2, 2), (2**30, 1)):
        reads.clear()
        reads[0] -= not matrices  # its speed is measured once
        matrices.append(
            mean_distances(model, batches, metric, memory_budget=MemoryBudget.of(model, memory))
        )
        assert set(reads.values()) == {passes}
    np.testing.assert_allclose(*matrices, atol=1e-7)
