"""Estimates of what a job takes: operations, hours of one GPU, memory.

This is arithmetic, not a measurement: expect the order of magnitude and the proportions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from layerprune.config.schema import (
    Config,
    Dtype,
    HealOptions,
    LoraOptions,
    Quantization,
    TextOptions,
    TrainingOptions,
)
from layerprune.estimate.eval_load import EvalLoad, eval_load
from layerprune.estimate.shape import Shape
from layerprune.shared_forward.prefix_tree import (
    LayerPath,
    build_prefix_tree,
    layer_runs,
    max_live_branches,
)

PEAK_FLOPS = 312e12
"""Operations per second of an A100 in bfloat16, from its data sheet."""

PREFILL, TRAINING, DECODING = 0.5, 0.4, 0.02
"""Assumed shares of the peak: for prompts, for training, and for decoding in batches of 8, which is
limited by memory bandwidth."""

QUANTIZED = 0.6
"""Factor on these for quantized weights, which are expanded to 16 bits for each product."""

DTYPE_BYTES = {Dtype.float32: 4.0, Dtype.bfloat16: 2.0, Dtype.float16: 2.0}

QUANTIZED_BYTES = {Quantization.nf4: 0.516, Quantization.int8: 1.0}
"""Bytes per weight; NF4 with double quantisation takes 0.127 bits per weight for its scales."""

TRAINED_BYTES = 16
"""Bytes per trained weight: itself, its gradient and AdamW's two moments, in float32."""

SAVED_HIDDEN, SAVED_INNER = 10, 1.5
"""Activations per token that a layer keeps for the backward pass: multiples of the hidden size, and
of the inputs and outputs of its feed-forward projections."""

STREAM_MEMORY = 32e9
"""Assumed bytes for activations beside a streamed layer, if `runtime.memory` is not set."""

TOKENS_AT_ONCE = 8192
"""Tokens that run at once outside training; more use more memory if there is any."""


@dataclass
class Cost:
    """The cost of some points."""

    eval_tokens: float = 0.0
    """Tokens of evaluation, counted for every point."""
    healing_tokens: float = 0.0
    flops: dict[str, float] = field(default_factory=dict)
    """By stage."""
    hours: float = 0.0
    """Hours of one A100."""
    memory: float = 0.0
    """Peak bytes."""
    streamed_bytes: float = 0.0
    """Bytes read from the model's files during passes."""
    stream_passes: int = 0
    """Passes over the model's files for evaluation tasks."""
    complete: bool = True
    """False if the size of a task is unknown."""

    def add_stage(
        self, stage: str, flops: float, share: float, quantization: Quantization | None
    ) -> None:
        """Add a stage that runs at a share of the peak."""
        self.flops[stage] = self.flops.get(stage, 0.0) + flops
        if quantization is not None:
            share *= QUANTIZED
        self.hours += flops / (PEAK_FLOPS * share) / 3600

    def add(self, other: "Cost") -> None:
        """Add the cost of points that run after these."""
        self.eval_tokens += other.eval_tokens
        self.healing_tokens += other.healing_tokens
        self.hours += other.hours
        for stage, flops in other.flops.items():
            self.flops[stage] = self.flops.get(stage, 0.0) + flops
        self.streamed_bytes += other.streamed_bytes
        self.stream_passes += other.stream_passes
        self.memory = max(self.memory, other.memory)
        self.complete &= other.complete


def profile_cost(config: Config, shape: Shape) -> Cost:
    """Estimate the measurement of distances: a pass over the calibration text, without the head."""
    cost = Cost(memory=_eval_memory(config, shape))
    data = config.data
    tokens = data.calibration_sequences * data.sequence_length
    flops = tokens * shape.token_flops(shape.num_layers, data.sequence_length, logits=0)
    cost.add_stage("distances", flops, PREFILL, config.model.quantization)
    if config.runtime.stream:
        cost.streamed_bytes = _passes(config, shape, tokens, 1) * _layers_bytes(config, shape)
    return cost


def unhealed_cost(config: Config, shape: Shape, paths: Sequence[LayerPath]) -> Cost:
    """Estimate the evaluation of cut models in one pass, which runs shared layers once."""
    return _evaluation(config, shape, paths, config.model.quantization)


def healed_cost(config: Config, shape: Shape, paths: Sequence[LayerPath]) -> Cost:
    """Estimate the healing and evaluation of cut models: one by one, or many by one training."""
    quantization, num_layers = config.healed_quantization, shape.num_layers
    if bands := config.heal.trainings(num_layers):
        cost = _evaluation(config, shape, paths, quantization)
        for _ in bands:
            cost.add(_healing(config, shape, tuple(range(num_layers))))
        return cost
    cost = Cost()
    for path in paths:
        cost.add(_evaluation(config, shape, [path], quantization))
        cost.add(_healing(config, shape, path))
    return cost


def _healing(config: Config, shape: Shape, path: LayerPath) -> Cost:
    """Estimate one healing, with the held-out losses that are measured meanwhile."""
    heal, quantization, data = config.heal, config.healed_quantization, config.data
    measurements = 2
    if isinstance(heal, TrainingOptions):
        measurements = 1 + -(-heal.steps // heal.eval_every)
    text = measurements * data.heldout_sequences * data.sequence_length
    cost = Cost(memory=_healing_memory(config, shape, path, quantization))
    flops = text * shape.token_flops(len(path), data.sequence_length)
    cost.add_stage("held-out loss while healing", flops, PREFILL, quantization)
    cost.healing_tokens, flops = healing_flops(heal, shape, path)
    cost.add_stage("healing", flops, TRAINING, quantization)
    return cost


def healing_flops(heal: HealOptions, shape: Shape, path: LayerPath) -> tuple[float, float]:
    """Return the tokens that a point is healed with, and the operations of that."""
    if not isinstance(heal, TextOptions):
        return 0.0, 0.0
    layer = shape.layer_flops(heal.sequence_length)
    tokens = float(heal.max_sequences * heal.sequence_length)
    flops = tokens * shape.num_layers * layer if heal.reads_dense else 0.0
    if isinstance(heal, TrainingOptions):
        load = heal.training_load(len(path), shape.num_layers, _seam(path))
        tokens = float(heal.steps * heal.batch_size * heal.sequence_length)
        flops += tokens * (load.layers * layer + load.heads * shape.head_flops)
    return tokens, flops


def _seam(path: LayerPath) -> int:
    """Return the slot of the first layer above the cut."""
    return next((slot for slot, layer in enumerate(path) if slot != layer), len(path))


def _evaluation(
    config: Config, shape: Shape, paths: Sequence[LayerPath], quantization: Quantization | None
) -> Cost:
    """Estimate tasks and held-out text of cut models in one pass; generation one by one."""
    tasks = eval_load(config.eval)
    data, count = config.data, len(paths)
    load = tasks or EvalLoad()
    text = data.heldout_sequences * data.sequence_length
    runs = layer_runs(paths)
    flops = load.shared_tokens * runs * shape.layer_flops(load.mean_length)
    flops += text * runs * shape.layer_flops(data.sequence_length)
    flops += count * (load.positions + text) * shape.head_flops
    cost = Cost(
        eval_tokens=count
        * (load.shared_tokens + load.prompt_tokens + load.generated_tokens + text),
        complete=tasks is not None,
        memory=_eval_memory(config, shape, quantization),
    )
    cost.add_stage("tasks and text", flops, PREFILL, quantization)
    if config.runtime.stream:
        branches = max_live_branches(build_prefix_tree(paths), shape.num_layers)
        cost.stream_passes = _passes(config, shape, load.shared_tokens, branches)
        of_text = _passes(config, shape, text, branches + 1)
        cost.streamed_bytes = (cost.stream_passes + of_text) * _layers_bytes(config, shape)
    if load.generated_tokens:
        length = (load.prompt_tokens + load.generated_tokens) / load.generations
        layers = sum(map(len, paths))
        prompts = load.prompt_tokens * layers * shape.layer_flops(length)
        cost.add_stage("prompts of generation", prompts, PREFILL, quantization)
        per_token = layers * shape.layer_flops(length) + count * shape.head_flops
        cost.add_stage("generation", load.generated_tokens * per_token, DECODING, quantization)
    return cost


def bytes_per_weight(dtype: Dtype, quantization: Quantization | None) -> float:
    """Return the bytes of a weight in a layer."""
    return QUANTIZED_BYTES[quantization] if quantization else DTYPE_BYTES[dtype]


def weight_bytes(
    shape: Shape, num_layers: int, dtype: Dtype, quantization: Quantization | None
) -> float:
    """Return the bytes of a model's weights; untied embeddings and head stay in `dtype`."""
    layers = num_layers * shape.layer_weights * bytes_per_weight(dtype, quantization)
    return layers + 2 * shape.head * DTYPE_BYTES[dtype]


def _passes(config: Config, shape: Shape, tokens: float, branches: int) -> int:
    """Return how often a streamed model is read if `branches` states per token are buffered."""
    state_bytes = shape.hidden_size * DTYPE_BYTES[config.model.dtype]
    memory_budget = (config.runtime.memory_bytes or STREAM_MEMORY) / 2
    return ceil(tokens * branches * state_bytes / memory_budget)


def _layers_bytes(config: Config, shape: Shape) -> float:
    """Return the bytes of all layers in a model's files, assuming the precision it runs in."""
    return shape.num_layers * shape.layer_weights * DTYPE_BYTES[config.model.dtype]


def _eval_memory(config: Config, shape: Shape, quantization: Quantization | None = None) -> float:
    quantization = quantization or config.model.quantization
    dtype, runtime = config.model.dtype, config.runtime
    if runtime.stream:
        return weight_bytes(shape, 1, dtype, quantization) + (runtime.memory_bytes or STREAM_MEMORY)
    per_token = SAVED_HIDDEN * shape.hidden_size + SAVED_INNER * shape.feed_forward
    activations = TOKENS_AT_ONCE * per_token * DTYPE_BYTES[dtype]
    return weight_bytes(shape, shape.num_layers, dtype, quantization) + activations


def _healing_memory(
    config: Config, shape: Shape, path: LayerPath, quantization: Quantization | None
) -> float:
    """Return the peak of loading the dense model and of training the cut one.

    Streamed, the former is one layer, and the latter has the layers above the cut alone.
    """
    heal, dtype, streamed = config.heal, config.model.dtype, config.runtime.stream
    before = weight_bytes(shape, 1 if streamed else shape.num_layers, dtype, quantization)
    left = len(path) - _seam(path) if streamed else len(path)
    after = weight_bytes(shape, left, dtype, quantization)
    if not isinstance(heal, TrainingOptions):
        return before
    tokens = min(heal.micro_batch_size, heal.batch_size) * heal.sequence_length
    of_layer_bytes = SAVED_HIDDEN * shape.hidden_size + SAVED_INNER * shape.feed_forward
    load = heal.training_load(len(path), shape.num_layers, _seam(path))
    states = load.saved_layers * of_layer_bytes + load.saved_inputs * shape.hidden_size
    trained = load.trained_layers * shape.layer_weights + load.trained_heads * shape.head
    if isinstance(heal, LoraOptions):
        trained += len(path) * shape.feed_forward * heal.rank
    logits = 2 * 4 * shape.vocab_size  # in float32, and their gradient
    activations = tokens * (states * DTYPE_BYTES[dtype] + logits)
    return max(before, after + activations + trained * TRAINED_BYTES)
