"""What a job will take: operations, hours of one GPU, memory.

Arithmetic, not a measurement: it says of what order a run is, and how its parts compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from layerprune.config.schema import Config, Dtype, HealConfig, Quantization, held_after
from layerprune.estimate.flops import of_head, of_layer, of_token
from layerprune.estimate.questions import Load, load
from layerprune.estimate.shape import Shape
from layerprune.paths.tree import Path, grow, layer_runs, most_alive

PEAK = 312e12
"""Operations per second of an A100 in bfloat16, by its data sheet."""

READING, TRAINING, WRITING = 0.5, 0.4, 0.02
"""Shares of the peak that are assumed: for prompts, for training, and for text that is written
token by token, eight answers at once, which waits for memory."""

FEW_BITS = 0.6
"""What weights in few bits leave of that: each product begins with making 16 bits of them."""

BYTES = {Dtype.float32: 4.0, Dtype.bfloat16: 2.0, Dtype.float16: 2.0}

HELD = {Quantization.nf4: 0.516, Quantization.int8: 1.0}
"""Bytes of a weight; NF4 with double quantisation holds 0.127 bits a weight for its scales."""

TRAINED_BYTES = 16
"""Of a weight that is trained: itself, its gradient and AdamW's two means, in float32."""

HIDDEN_KEPT, INNER_KEPT = 10, 1.5
"""What a layer keeps for its gradients, in numbers a token: so many times the hidden size, and so
many times the inputs and outputs of its feed-forward projections."""

ROOM = 32e9
"""Bytes for what runs and waits beside a streamed layer, where `runtime.memory` says nothing."""

AT_ONCE = 8192
"""Tokens that run at once where nothing is trained; more memory is used where there is more."""


@dataclass
class Cost:
    """What some points take."""

    read: float = 0.0
    """Tokens of questions and text that points are asked, each counted for every point."""
    trained: float = 0.0
    """Tokens of healing."""
    flops: dict[str, float] = field(default_factory=dict)
    """By stage."""
    hours: float = 0.0
    """Of one A100."""
    memory: float = 0.0
    """Bytes, at the most."""
    streamed: float = 0.0
    """Bytes that are read from the model's files while it runs."""
    passes: int = 0
    """How often they are read for the questions."""
    complete: bool = True
    """Whether all tasks' questions are counted."""

    def add(self, stage: str, flops: float, share: float) -> None:
        """Put in a stage that runs at a share of the peak."""
        self.flops[stage] = self.flops.get(stage, 0.0) + flops
        self.hours += flops / (PEAK * share) / 3600

    def join(self, other: "Cost") -> None:
        """Put in what other points take, made after these."""
        self.read += other.read
        self.trained += other.trained
        self.hours += other.hours
        for stage, flops in other.flops.items():
            self.flops[stage] = self.flops.get(stage, 0.0) + flops
        self.streamed += other.streamed
        self.passes += other.passes
        self.memory = max(self.memory, other.memory)
        self.complete &= other.complete


def profile_cost(config: Config, shape: Shape) -> Cost:
    """One pass over the calibration text, without the head."""
    cost = Cost(memory=_asked_memory(config, shape))
    data = config.data
    tokens = data.calibration_sequences * data.sequence_length
    flops = tokens * of_token(shape, shape.num_layers, data.sequence_length, logits=0)
    cost.add("distances", flops, _share(READING, config.model.quantization))
    if config.runtime.stream:
        cost.streamed = _passes(config, shape, tokens, 1) * _layers_bytes(config, shape)
    return cost


def unhealed_cost(config: Config, shape: Shape, paths: Sequence[Path]) -> Cost:
    """Cut models that are asked in one pass, which runs once what they share."""
    return _asked(config, shape, paths, config.model.quantization)


def healed_cost(config: Config, shape: Shape, paths: Sequence[Path]) -> Cost:
    """Cut models that are healed and asked one by one."""
    heal = config.heal
    held = held_after(heal.recipe, config.model.quantization)
    cost = Cost()
    for path in paths:
        point = _asked(config, shape, [path], held)
        data, measured = config.data, 2
        if heal.steps is not None:
            assert heal.eval_every is not None
            measured = 1 + -(-heal.steps // heal.eval_every)
        text = measured * data.heldout_sequences * data.sequence_length
        flops = text * of_token(shape, len(path), data.sequence_length)
        point.add("held-out loss while healing", flops, _share(READING, held))
        tokens, flops = healing_flops(heal, shape, path)
        point.trained = tokens
        point.add("healing", flops, _share(TRAINING, held))
        point.memory = max(point.memory, _healing_memory(config, shape, path, held))
        cost.join(point)
    return cost


def healing_flops(heal: HealConfig, shape: Shape, path: Path) -> tuple[float, float]:
    """Tokens that a point is trained on, and the operations of that.

    A forward pass is 1. Where weights are trained, a backward pass is 2: for what goes in, and for
    the weights. Where they are frozen and low-rank updates learn, it is 1.
    """
    length = float(heal.sequence_length or 0)
    kept, whole = len(path), shape.num_layers
    layer, head = of_layer(shape, length), of_head(shape)
    forward = kept * layer + head
    if heal.recipe == "linear":
        tokens = (heal.sequences or 0) * length
        return tokens, tokens * whole * layer
    tokens = (heal.steps or 0) * (heal.batch_size or 0) * length
    if heal.recipe == "full":
        return tokens, tokens * 3 * forward
    if heal.recipe == "qlora":  # on a GPU, states are computed again on the way back
        return tokens, tokens * (2 * forward + kept * layer)
    if heal.recipe == "distill":
        return tokens, tokens * (2 * forward + whole * layer + head)
    last = min(heal.last_layers or 0, kept)
    if heal.recipe == "tail":
        return tokens, tokens * (forward + 2 * (last * layer + head))
    if heal.recipe == "seam":  # states once, its own layers, all above for a share of the text
        first = _seam(path)
        own = min(heal.seam_layers or 0, kept - first)
        above = kept - first - own
        once = min(tokens, (heal.sequences or 0) * length) * whole * layer
        text = (heal.text_share or 0) * 2 * (above * layer + head)
        return tokens, once + tokens * (3 * own * layer + text)
    return tokens, tokens * 2 * forward  # lora, and whatever else trains little of a layer


def _seam(path: Path) -> int:
    """The slot of the first layer above the cut."""
    return next((slot for slot, at in enumerate(path) if slot != at), len(path))


def _asked(config: Config, shape: Shape, paths: Sequence[Path], held: Quantization | None) -> Cost:
    """Questions and held-out text of cut models in one pass; what is written, model by model."""
    asked = load(config.eval)
    data, count = config.data, len(paths)
    questions = asked or Load()
    text = data.heldout_sequences * data.sequence_length
    runs = layer_runs(paths)
    flops = questions.read * runs * of_layer(shape, questions.seen)
    flops += text * runs * of_layer(shape, data.sequence_length)
    flops += count * (questions.positions + text) * of_head(shape)
    cost = Cost(
        read=count * (questions.read + questions.alone + questions.written + text),
        complete=asked is not None,
        memory=_asked_memory(config, shape, held),
    )
    cost.add("questions and text", flops, _share(READING, held))
    if config.runtime.stream:
        alive = most_alive(grow(paths), shape.num_layers)
        cost.passes = _passes(config, shape, questions.read, alive)
        of_text = _passes(config, shape, text, alive + 1)
        cost.streamed = (cost.passes + of_text) * _layers_bytes(config, shape)
    if questions.written:
        seen = (questions.alone + questions.written) / questions.answers
        layers = sum(map(len, paths))
        before = questions.alone * layers * of_layer(shape, seen)
        cost.add("prompts before writing", before, _share(READING, held))
        each = layers * of_layer(shape, seen) + count * of_head(shape)
        cost.add("writing", questions.written * each, _share(WRITING, held))
    return cost


def _share(share: float, held: Quantization | None) -> float:
    return share if held is None else share * FEW_BITS


def weight_bytes(shape: Shape, num_layers: int, dtype: Dtype, held: Quantization | None) -> float:
    """Bytes of a model's weights; those of embeddings and head, counted apart, stay in `dtype`."""
    of_layers = num_layers * shape.layer_weights * (HELD[held] if held else BYTES[dtype])
    return of_layers + 2 * shape.head * BYTES[dtype]


def _passes(config: Config, shape: Shape, tokens: float, alive: int) -> int:
    """How often a streamed model is read for so many tokens, of which `alive` states wait each."""
    room = (config.runtime.memory_bytes or ROOM) / 2
    return ceil(tokens * alive * shape.hidden_size * BYTES[config.model.dtype] / room)


def _layers_bytes(config: Config, shape: Shape) -> float:
    """Of all layers in a model's files, which are taken to be in the precision it runs in."""
    return shape.num_layers * shape.layer_weights * BYTES[config.model.dtype]


def _asked_memory(config: Config, shape: Shape, held: Quantization | None = None) -> float:
    held = held or config.model.quantization
    dtype, runtime = config.model.dtype, config.runtime
    if runtime.stream:
        return weight_bytes(shape, 1, dtype, held) + (runtime.memory_bytes or ROOM)
    size = BYTES[dtype]
    states = AT_ONCE * (HIDDEN_KEPT * shape.hidden_size + INNER_KEPT * shape.feed_forward) * size
    return weight_bytes(shape, shape.num_layers, dtype, held) + states


def _healing_memory(config: Config, shape: Shape, path: Path, held: Quantization | None) -> float:
    """The whole model is loaded before it is cut; what training adds comes to what is left.

    Streamed, it is one layer at a time, and then those above the cut.
    """
    heal, dtype, streamed = config.heal, config.model.dtype, config.runtime.stream
    before = weight_bytes(shape, 1 if streamed else shape.num_layers, dtype, held)
    left = len(path) - _seam(path) if streamed else len(path)
    after = weight_bytes(shape, left, dtype, held)
    if heal.steps is None:
        return before
    micro = min(heal.micro_batch_size or 1, heal.batch_size or 1)
    tokens = micro * (heal.sequence_length or 0)
    size = BYTES[dtype]
    of_layer_bytes = HIDDEN_KEPT * shape.hidden_size + INNER_KEPT * shape.feed_forward
    if heal.recipe == "qlora":  # a state a layer, and all of one layer at a time
        states = len(path) * shape.hidden_size + of_layer_bytes
    else:
        count = {"seam": heal.seam_layers, "tail": heal.last_layers}.get(heal.recipe)
        states = min(len(path), count or len(path)) * of_layer_bytes
    logits = 2 * 4 * shape.vocab_size  # in float32, and their gradient
    trained = {
        "full": len(path) * shape.layer_weights + 2 * shape.head,
        "tail": (heal.last_layers or 0) * shape.layer_weights + shape.head,
        "seam": (heal.seam_layers or 0) * shape.layer_weights,
    }.get(heal.recipe, len(path) * shape.feed_forward * (heal.rank or 0))
    return max(before, after + tokens * (states * size + logits) + trained * TRAINED_BYTES)
