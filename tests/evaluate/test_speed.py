"""Speed: what is counted against what can be worked out, what is timed by its arithmetic."""

import pytest
import torch

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, ModelConfig, Quantization, SpeedConfig
from layerprune.errors import UserError
from layerprune.evaluate import speed
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.run import pipeline
from layerprune.run.job import JobBuilder

CONFIG = SpeedConfig(rounds=3, batch_size=2, prompt_tokens=16, new_tokens=5)
WHOLE = tuple(range(8))


def test_bytes_and_operations_are_those_of_the_cut_model(tiny_llama):
    found = speed.speeds(tiny_llama, [(0, 1, 2, 6, 7), WHOLE], CONFIG)
    assert list(found) == [(0, 1, 2, 6, 7), WHOLE]
    assert found[WHOLE].pruned == found[WHOLE].dense
    assert len(tiny_llama.model.layers) == 8
    for path, each in found.items():
        linear = sum(
            part.weight.numel()
            for at in path
            for part in tiny_llama.model.layers[at].modules()
            if isinstance(part, torch.nn.Linear)
        )
        attended = 2 * tiny_llama.config.hidden_size * CONFIG.prompt_tokens * len(path)
        head = tiny_llama.lm_head.weight.numel() / CONFIG.prompt_tokens  # at the last token alone
        expected = 2 * (linear + attended + head)
        assert each.pruned.flops_per_token == pytest.approx(expected, rel=1e-6)
        seen = 2 * tiny_llama.config.hidden_size * (CONFIG.prompt_tokens + 1) * len(path)
        written = 2 * (linear + seen + tiny_llama.lm_head.weight.numel())
        assert each.pruned.flops_per_new_token == pytest.approx(written, rel=1e-6)
    cut = drop_layers(tiny_llama, [3, 4, 5])
    held = sum(each.nbytes for each in cut.parameters())
    assert found[0, 1, 2, 6, 7].pruned.weight_bytes == held
    assert found[0, 1, 2, 6, 7].pruned.peak_bytes >= held


@pytest.mark.parametrize("stream", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("quantization", list(Quantization), ids=lambda kind: kind.value)
def test_quantised_layers_count_as_unquantised_ones(quantization, stream, folder_64, tmp_path):
    source = locate(ModelConfig(path=str(folder_64)), tmp_path / "cache")

    def flops(*settings, **more):
        model = load(source, Dtype.float32, "cpu", *settings, **more).model
        measured = speed.speeds(model, [WHOLE[:5]], CONFIG)[WHOLE[:5]].pruned
        with torch.inference_mode():  # layers run as before
            assert float(model(torch.arange(6)[None]).logits.abs().sum()) > 0
        return measured.flops_per_token, measured.flops_per_new_token

    assert flops(quantization, stream=stream) == flops()


def test_each_gpu_of_a_model_is_waited_for(tiny_llama, monkeypatch):
    """`torch.cuda.synchronize` alone waits for the current GPU, which the model may not be on."""
    gpus, waited = [torch.device("cuda", 1), torch.device("cuda", 3)], []
    monkeypatch.setattr(speed, "devices", lambda _: [*gpus, torch.device("cpu")])
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)
    speed._synchronize(tiny_llama)
    assert waited == gpus


def test_numbers_are_medians_of_rounds_and_ratios_hold_within_a_round(tiny_llama, monkeypatch):
    # The machine is twice as slow in the second round that counts, and the fourth turn warms up.
    seconds = {8: 4.0, 6: 3.0}
    slow = {"turn": 0}

    def times(model, ids_BT, new_tokens):
        assert tuple(ids_BT.shape) == (2, 16)
        factor = (1, 2, 1)[slow["turn"] // 2]
        slow["turn"] += 1
        first = factor * seconds[len(model.model.layers)]
        return first, first / 2

    monkeypatch.setattr(speed, "_times", times)
    monkeypatch.setattr(speed, "_costs", lambda *_: (1, 2, 3.0, 4.0))
    (found,) = speed.speeds(tiny_llama, [(0, 1, 2, 3, 4, 5)], CONFIG).values()
    assert found.dense.first_token_s == speed.MedianRange(4, 4, 8)
    assert found.dense.prefill == speed.MedianRange(2 * 16 / 4, 2 * 16 / 8, 2 * 16 / 4)
    assert found.pruned.decode == speed.MedianRange(2 * 4 / 1.5, 2 * 4 / 3, 2 * 4 / 1.5)
    assert found.prefill_ratio == found.decode_ratio == speed.MedianRange(4 / 3, 4 / 3, 4 / 3)


def test_a_point_with_speed_and_no_question(tmp_path, tiny_folder):
    overrides = [
        "model=custom", f"model.path={tiny_folder}", "data.sequence_length=32",
        "data.calibration_sequences=4", "data.heldout_sequences=4", "eval=speed",
        "eval.speed.rounds=1", "eval.speed.prompt_tokens=8", "eval.speed.new_tokens=2",
        f"runtime.outputs={tmp_path}", "prune.fraction=[0,0.25]",
    ]  # fmt: skip
    dense, cut = pipeline.run(compose(*overrides))
    assert dense.scores == ()
    assert dense.speed.decode_ratio.median == 1
    assert cut.speed.dense == dense.speed.dense
    assert cut.speed.pruned.weight_bytes < cut.speed.dense.weight_bytes
    with pytest.raises(UserError, match=r"eval\.speed\.rounds=5 with heal=lora"):
        JobBuilder().build(compose(*overrides, "eval.speed.rounds=5", "heal=lora"))
    for wrong in ("new_tokens=1", "batch_size=0", "rounds=-1"):
        with pytest.raises(UserError, match=wrong):
            compose(*overrides, f"eval.speed.{wrong}")


def test_points_without_speed_keep_their_keys(tmp_path, tiny_folder, tiny_tasks):
    overrides = [
        "model=custom", f"model.path={tiny_folder}", "eval.tasks=[letters]",
        f"eval.include_path={tiny_tasks}",
        "eval.trust_task_code=true", f"runtime.outputs={tmp_path}",
    ]  # fmt: skip
    keys = [
        set(JobBuilder().build(compose(*overrides, *more)).targets)
        for more in ([], ["eval.speed.batch_size=4"], ["eval.speed.rounds=1"])
    ]
    assert keys[0] == keys[1]
    assert not keys[0] & keys[2]
