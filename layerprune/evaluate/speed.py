"""How fast a model reads and writes, with some of its layers and with all of them.

Letters: B sequences, T tokens of a prompt.
"""

import statistics
import time
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from layerprune import memory
from layerprune.config.schema import SpeedConfig
from layerprune.model.quantized import weight_bytes
from layerprune.model.stack import decoder_stack, text_config
from layerprune.model.surgery import dropped
from layerprune.paths.tree import Path
from layerprune.progress import bar
from layerprune.record.speed import Measured, Speed, Spread

Shape = Sequence[int]

Costs = tuple[int, int, float, float]


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Operations of attention, whose keys and values several heads may share."""
    heads = query[1]
    return int(sdpa_flop_count(query, [key[0], heads, *key[2:]], [value[0], heads, *value[2:]]))


ON_A_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Attention has a name there that PyTorch's counter does not know."""


def speeds(model: PreTrainedModel, paths: Sequence[Path], config: SpeedConfig) -> dict[Path, Speed]:
    """The speed of each cut model that keeps the layers of a path, beside that of the whole.

    In each round every model has its turn, the whole one among them: what slows the machine for a
    while slows them all, and ratios within a round hold. The first round warms up and counts for
    nothing. Generation is greedy, by transformers' own `generate`, with its cache; prompts are
    random tokens, since time does not depend on which.
    """
    num_layers = len(decoder_stack(model).layers)
    whole = tuple(range(num_layers))
    models = list(dict.fromkeys((whole, *paths)))
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(text_config(model).vocab_size)
    shape = config.batch_size, config.prompt_tokens
    ids_BT = torch.randint(vocabulary, shape, generator=generator).to(model.device)
    rounds: dict[Path, list[tuple[float, float]]] = {path: [] for path in models}
    costs: dict[Path, Costs] = {}
    with bar("speed", total=(config.rounds + 1) * len(models)) as advance:
        for number in range(config.rounds + 1):
            for path in models:
                with dropped(model, [layer for layer in whole if layer not in path]):
                    if number == 0:
                        costs[path] = _costs(model, ids_BT, config.new_tokens)
                    else:
                        rounds[path].append(_times(model, ids_BT, config.new_tokens))
                advance(1)
    measured = {path: _measured(rounds[path], costs[path], config) for path in models}
    return {
        path: Speed(
            dense=measured[whole],
            pruned=measured[path],
            prefill_ratio=_ratio(rounds[whole], rounds[path], 0),
            decode_ratio=_ratio(rounds[whole], rounds[path], 1),
            rounds=config.rounds,
            batch_size=config.batch_size,
            prompt_tokens=config.prompt_tokens,
            new_tokens=config.new_tokens,
        )
        for path in dict.fromkeys(paths)
    }


class _Clock(StoppingCriteria):
    """Asked after each new token whether to stop: never, but when it was is written down."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.times: list[float] = []

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object
    ) -> torch.BoolTensor:
        _wait(self._model)
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


def _times(model: PreTrainedModel, ids_BT: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and seconds for all tokens after it."""
    _wait(model)
    started = time.perf_counter()
    times = _generate(model, ids_BT, new_tokens)
    return times[0] - started, times[-1] - times[0]


def _generate(model: PreTrainedModel, ids_BT: torch.Tensor, count: int) -> list[float]:
    """Write `count` new tokens of each sequence; when each of them was there."""
    clock = _Clock(model)
    with torch.inference_mode():
        model.generate(  # type: ignore[operator] # of a mixin
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
    return clock.times


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _costs(model: PreTrainedModel, ids_BT: torch.Tensor, new_tokens: int) -> Costs:
    """Bytes of weights, bytes at the most, operations for each token that is read or written."""
    flops_read, flops_written = (_flops(model, ids_BT, count) for count in (1, 2))
    memory.reset_peak(model.device)
    before = memory.peak(model.device)
    _generate(model, ids_BT, new_tokens)
    above = max(0, memory.peak(model.device) - before)
    size = weight_bytes(model)
    return (
        size,
        size + above,
        flops_read / ids_BT.numel(),
        (flops_written - flops_read) / len(ids_BT),
    )


def _flops(model: PreTrainedModel, ids_BT: torch.Tensor, new_tokens: int) -> int:
    """Operations of reading the prompts and writing so many tokens; the first costs its logits."""
    with FlopCounterMode(display=False, custom_mapping=ON_A_CPU) as counter:
        _generate(model, ids_BT, new_tokens)
    return counter.get_total_flops()


def _measured(rounds: Sequence[tuple[float, float]], costs: Costs, config: SpeedConfig) -> Measured:
    size, peak, flops_read, flops_written = costs
    read = config.batch_size * config.prompt_tokens
    written = config.batch_size * (config.new_tokens - 1)
    return Measured(
        prefill=_spread([read / first for first, _ in rounds]),
        decode=_spread([written / rest for _, rest in rounds]),
        first_token_s=_spread([first for first, _ in rounds]),
        weight_bytes=size,
        peak_bytes=peak,
        flops_per_token=flops_read,
        flops_per_new_token=flops_written,
    )


def _ratio(
    whole: Sequence[tuple[float, float]], cut: Sequence[tuple[float, float]], which: int
) -> Spread:
    return _spread([a[which] / b[which] for a, b in zip(whole, cut, strict=True)])


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))
