"""Prefill and decoding speed of cut models beside their dense model.

Letters: B sequences, T tokens of a prompt.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from layerprune.config.schema import SpeedConfig
from layerprune.model.offload import devices
from layerprune.model.quantized import is_quantized, weight_bytes
from layerprune.model.stack import decoder_stack, text_config
from layerprune.model.surgery import limited_to
from layerprune.record.speed import MedianRange, ModelSpeed, Speed
from layerprune.runtime import memory
from layerprune.runtime.progress import progress_bar
from layerprune.shared_forward.prefix_tree import LayerPath

TensorShape = Sequence[int]

Costs = tuple[int, int, float, float]
"""Bytes of weights, peak bytes, and operations per prompt token and per generated token."""

Times = tuple[float, float]
"""Seconds to the first token, and from there to the last one."""


def _attention(
    query: TensorShape, key: TensorShape, value: TensorShape, *_: object, **__: object
) -> int:
    """Return the operations of attention, possibly with fewer key and value heads."""
    heads = query[1]
    return int(sdpa_flop_count(query, [key[0], heads, *key[2:]], [value[0], heads, *value[2:]]))


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Attention on a CPU, which PyTorch's counter does not know."""


def speeds(
    model: PreTrainedModel, paths: Sequence[LayerPath], config: SpeedConfig
) -> dict[LayerPath, Speed]:
    """Measure the cut models that keep the layers of each path, and the dense model.

    Each round runs every model once, so that a slow phase of the machine affects them all and
    ratios within a round hold. A warm-up round comes first. Generation is greedy, by
    transformers' `generate` with its cache; prompts are random tokens, as fast as any others.
    """
    num_layers = len(decoder_stack(model).layers)
    every_layer = tuple(range(num_layers))
    models = list(dict.fromkeys((every_layer, *paths)))
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(text_config(model).vocab_size)
    shape = config.batch_size, config.prompt_tokens
    ids_BT = torch.randint(vocabulary, shape, generator=generator).to(model.device)
    rounds: dict[LayerPath, list[Times]] = {path: [] for path in models}
    costs: dict[LayerPath, Costs] = {}
    with progress_bar("speed", total=(config.rounds + 1) * len(models)) as advance:
        for number in range(config.rounds + 1):
            for path in models:
                with limited_to(model, path):
                    if number == 0:
                        costs[path] = _costs(model, ids_BT, config.new_tokens)
                    else:
                        rounds[path].append(_times(model, ids_BT, config.new_tokens))
                advance(1)
    measured = {path: _measured(rounds[path], costs[path], config) for path in models}
    return {
        path: Speed(
            dense=measured[every_layer],
            pruned=measured[path],
            prefill_ratio=_ratio(rounds[every_layer], rounds[path], 0),
            decode_ratio=_ratio(rounds[every_layer], rounds[path], 1),
            rounds=config.rounds,
            batch_size=config.batch_size,
            prompt_tokens=config.prompt_tokens,
            new_tokens=config.new_tokens,
        )
        for path in dict.fromkeys(paths)
    }


class _Clock(StoppingCriteria):
    """Records the time of each generated token, and never stops the generation."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.times: list[float] = []

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object
    ) -> torch.BoolTensor:
        _synchronize(self._model)
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


def _times(model: PreTrainedModel, ids_BT: torch.Tensor, new_tokens: int) -> Times:
    _synchronize(model)
    started = time.perf_counter()
    times = _generate(model, ids_BT, new_tokens)
    return times[0] - started, times[-1] - times[0]


def _generate(model: PreTrainedModel, ids_BT: torch.Tensor, count: int) -> list[float]:
    """Generate `count` tokens of each sequence; return the time of each."""
    clock = _Clock(model)
    with torch.inference_mode():
        model.generate(  # type: ignore[operator] # from a mixin
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
    return clock.times


def _synchronize(model: PreTrainedModel) -> None:
    for device in devices(model):
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _costs(model: PreTrainedModel, ids_BT: torch.Tensor, new_tokens: int) -> Costs:
    flops_1, flops_2 = (_flops(model, ids_BT, count) for count in (1, 2))
    memory.reset_peak(model.device)
    before = memory.peak(model.device)
    _generate(model, ids_BT, new_tokens)
    above = max(0, memory.peak(model.device) - before)
    size = weight_bytes(model)
    return size, size + above, flops_1 / ids_BT.numel(), (flops_2 - flops_1) / len(ids_BT)


def _flops(model: PreTrainedModel, ids_BT: torch.Tensor, new_tokens: int) -> int:
    """Count the operations of generating `new_tokens` of each sequence, prefill included.

    A quantised layer counts as the unquantised one.
    """
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with _counted_quantized(model) as quantized, counter:
        _generate(model, ids_BT, new_tokens)
    return counter.get_total_flops() + sum(quantized)


@contextmanager
def _counted_quantized(model: PreTrainedModel) -> Iterator[list[int]]:
    """Count the operations of quantised layers, which return zeros instead of running.

    PyTorch's counter sees none of bitsandbytes' own operations, and all of those that it replaces
    by ordinary ones, which depends on the device.
    """
    counts: list[int] = []

    def count(part: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(state: torch.Tensor) -> torch.Tensor:
            counts.append(2 * state.numel() * part.out_features)
            return state.new_zeros(*state.shape[:-1], part.out_features)

        return forward

    part: Any
    forwards = [(part, part.forward) for part in model.modules() if is_quantized(part)]
    for part, _ in forwards:
        part.forward = count(part)
    try:
        yield counts
    finally:
        for part, forward in forwards:
            part.forward = forward


def _measured(rounds: Sequence[Times], costs: Costs, config: SpeedConfig) -> ModelSpeed:
    size, peak, flops_per_token, flops_per_new_token = costs
    prompt_tokens = config.batch_size * config.prompt_tokens
    generated = config.batch_size * (config.new_tokens - 1)
    return ModelSpeed(
        prefill=_median_range([prompt_tokens / first for first, _ in rounds]),
        decode=_median_range([generated / rest for _, rest in rounds]),
        first_token_s=_median_range([first for first, _ in rounds]),
        weight_bytes=size,
        peak_bytes=peak,
        flops_per_token=flops_per_token,
        flops_per_new_token=flops_per_new_token,
    )


def _ratio(dense: Sequence[Times], cut: Sequence[Times], which: int) -> MedianRange:
    return _median_range([a[which] / b[which] for a, b in zip(dense, cut, strict=True)])


def _median_range(values: Sequence[float]) -> MedianRange:
    return MedianRange(statistics.median(values), min(values), max(values))
