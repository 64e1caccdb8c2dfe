"""The typed configuration under every YAML file of `conf/`, one class for each group.

Types and defaults live here and beside each metric, strategy and recipe; the YAML files hold
choices. Hydra checks keys and types while it composes; `__post_init__` checks values, and each
message names the key. The line under a key is its description in `docs/configuration.md`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from math import inf
from os.path import expanduser
from typing import Any, ClassVar, dataclass_transform

from omegaconf import II, MISSING

from layerprune.errors import UserError

UNITS = {
    "": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def num_bytes(text: str) -> int:
    """Return the bytes of a size such as `500MB`, `1.5 GiB` or `1048576`, or raise `ValueError`."""
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if size is None or size[2].upper() not in UNITS:
        raise ValueError(f"{text!r} is not a size such as 500MB or 2GiB.")
    return int(float(size[1]) * UNITS[size[2].upper()])


def _check_size(key: str, text: str | None) -> None:
    try:
        valid = text is None or num_bytes(text) > 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{key}={text}: use a size such as 500MB or 6GiB.")


def _expand_home(section: Any, *names: str) -> None:
    """Replace a leading `~` in these options, each a path or a list of paths."""
    for name in names:
        value = getattr(section, name)
        if isinstance(value, str):
            setattr(section, name, expanduser(value))
        elif value is not None:
            setattr(section, name, [expanduser(path) for path in value])


def _check_least(group: str, options: object, **least: int) -> None:
    """Raise `UserError` for an option that is given and smaller than its least value."""
    for name, bound in least.items():
        if (value := getattr(options, name)) is not None and value < bound:
            raise UserError(f"{group}.{name}={value}: it must be at least {bound}.")


class Dtype(Enum):
    """Precision of the weights in memory."""

    float32 = fp32 = "float32"
    bfloat16 = bf16 = "bfloat16"
    float16 = fp16 = "float16"


class Quantization(Enum):
    """Quantization of linear layers except the head, by bitsandbytes."""

    nf4 = "nf4"
    int8 = "int8"


class GGUFType(Enum):
    """Type of tensors in a GGUF file: those that the gguf package can write."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q5_1 = "q5_1"
    q5_0 = "q5_0"
    q4_1 = "q4_1"
    q4_0 = "q4_0"


SHORT_RUN = 200
"""A run of fewer steps is short: defaults of the paper, for 5,000 steps, do not fit it."""


@dataclass(kw_only=True, slots=True)
class HealingFacts:
    """Healing hyperparameters of a model: the paper's, where it has any.

    The defaults are from Gromov et al., appendix A.1 and B.3, for models of up to 7 billion
    parameters, before any sweep. Runs of fewer than 200 steps take 8 sequences of 128 tokens in
    place of the paper's 16 of 2,048, and warm up for a tenth of their steps.
    """

    steps: int = 5000
    """Optimiser steps."""
    batch_size: int = 16
    """Sequences in each step."""
    warmup_steps: int = 100
    """Steps of the linear warm-up."""
    sequence_length: int = 2048
    """Tokens in each sequence."""
    learning_rate: float = 3e-4
    """Peak learning rate of LoRA adapters."""
    weights_learning_rate: float = 2e-5
    """Peak learning rate of recipes that train the model's own weights. The paper has no such
    recipe: the default is a usual rate for fine-tuning a model of some billion parameters."""
    rank: int = 64
    """LoRA rank."""
    targets: list[str] | None = None
    """Suffixes of the names of the modules that get LoRA adapters; all feed-forward projections if
    null."""


@dataclass(kw_only=True, slots=True)
class ShapeFacts:
    """Sizes of a model, named as in its `config.json`: a dry run then needs no model files."""

    num_hidden_layers: int = MISSING
    """Number of layers."""
    hidden_size: int = MISSING
    """Size of a hidden state."""
    intermediate_size: int = MISSING
    """Hidden size of the feed-forward network."""
    num_attention_heads: int = MISSING
    """Number of query heads."""
    num_key_value_heads: int = MISSING
    """Number of key and value heads."""
    vocab_size: int = MISSING
    """Size of the vocabulary."""
    gated: bool = True
    """True if a feed-forward network has three projections, false if it has two."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The model to prune, and how to load it."""

    path: str = MISSING
    """A hub id, a folder, a GGUF file, or `package:NAME/FILE` for a GGUF file in a package."""
    name: str | None = None
    """Label in tables and figures; the last part of `path` if not given."""
    family: str | None = None
    """Model family, by which curves are compared; the architecture's model type if not given."""
    parts: list[str] | None = None
    """Files `package:NAME/FILE` that make up the GGUF file of `path`, joined in this order."""
    sha256: str | None = None
    """SHA-256 of the GGUF file, in hex digits; another file is refused."""
    made_by: str | None = None
    """The command that makes the folder of `path`, or installs `parts`, for the error message if
    they are missing."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Dtype = Dtype.float32
    """Precision of the weights in memory during measurement, pruning and evaluation."""
    quantization: Quantization | None = None
    """Quantize linear layers to 4 or 8 bits; computation is in `dtype`."""
    pickled_weights: bool = False
    """Read PyTorch's `pytorch_model*.bin` if there are no safetensors: as data, without running
    code in them."""
    trust_remote_code: bool = False
    """Run the code that comes with a model's files if transformers does not know its type."""
    healing: HealingFacts = field(default_factory=HealingFacts)
    """Healing hyperparameters that recipes use unless options of `heal` set them."""
    shape: ShapeFacts | None = None
    """Sizes for `dry_run=true` on a machine without the model. A run reads the model's files."""

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise UserError("model.path is empty: give a hub id, a folder or package:NAME/FILE.")


class Tokens(Enum):
    """Tokens of a sequence that a metric reads."""

    last = "last"
    all = "all"


@dataclass_transform(kw_only_default=True)
@dataclass(kw_only=True, slots=True)
class MetricOptions:
    """A measure of the distance between the inputs of two layers, or of a layer's importance."""

    name: str = MISSING
    """One of the metrics; `metric=NAME` sets it."""

    uses_seed: ClassVar[bool] = False
    """True if the result depends on `seed`."""
    uses_gradients: ClassVar[bool] = False
    """True if it needs gradients of the weights: a model in memory and not quantized."""


DEFAULT_FRACTIONS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


@dataclass_transform(kw_only_default=True)
@dataclass(kw_only=True, slots=True)
class PruneOptions:
    """The layers to remove: a strategy with fractions, or layers by name."""

    strategy: str = MISSING
    """One of the strategies; `prune=NAME` sets it."""
    fraction: Any = None
    """A number in [0, 1), or a list of them. Of L layers, round(fraction * L) are removed. If no
    option says what is removed, 0 to 0.5 in steps of 0.1."""
    layers_dropped: Any = None
    """The number of layers to remove, or a list of such numbers, in place of a fraction."""
    layers: list[int] | None = None
    """Indices of the layers to remove, counted from 0, in place of a strategy's choice."""

    def __post_init__(self) -> None:
        choices = ("fraction", "layers_dropped", "layers")
        given = [f"prune.{name}" for name in choices if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} exclude each other: remove one.")
        if self.layers is not None:
            if len(set(self.layers)) != len(self.layers) or min(self.layers, default=0) < 0:
                raise UserError(
                    f"prune.layers={self.layers}: use distinct indices that count from 0."
                )
        elif self.layers_dropped is not None:
            key, text = "prune.layers_dropped", "whole numbers from 0"
            self.layers_dropped = _numbers(key, self.layers_dropped, int, inf, text)
        else:
            fraction = list(DEFAULT_FRACTIONS) if self.fraction is None else self.fraction
            text = "numbers from 0 to less than 1"
            self.fraction = _numbers("prune.fraction", fraction, int | float, 1, text)


def _numbers(key: str, given: Any, kind: Any, bound: float, text: str) -> list[Any]:
    """Return a number or a list of them as a list; raise `UserError` if one is not valid."""
    numbers = given if isinstance(given, list) else [given]
    if not numbers:
        raise UserError(f"{key}=[] is empty: give at least one number; use {text}.")
    for number in numbers:
        valid = isinstance(number, kind) and not isinstance(number, bool)
        if not (valid and 0 <= number < bound):
            raise UserError(f"{key}={number}: use {text}.")
    return numbers


class StopWhen(Enum):
    """A reason to stop training before its last step."""

    plateau = "plateau"


def zero_allowed(default: Any) -> Any:
    """Return the field of a numeric option that may be 0; other numbers must be greater than 0."""
    return field(default=default, metadata={"zero_allowed": True})


def fitting(name: str, short: int) -> Any:
    """Return a default: the model's number, or `short` in place of the paper's in a short run."""
    paper = HealingFacts.__dataclass_fields__[name].default
    return II(f"fitting:${{heal.steps}},${{model.healing.{name}}},{paper},{short}")


def fit_to_steps(steps: int, given: int, paper: int, short: int) -> int:
    """Return a default of healing for a run of so many steps."""
    return short if steps < SHORT_RUN and given == paper else given


def fit_warmup(steps: int, given: int) -> int:
    """Return the number of warm-up steps of a run: the model's, or a tenth of the run."""
    given = fit_to_steps(steps, given, HealingFacts().warmup_steps, steps // 10)
    return given if given < steps else steps // 10


def loss_weight(default: float) -> Any:
    """Return the field of the weight of a loss; not all of a recipe's weights may be 0."""
    return field(default=default, metadata={"zero_allowed": True, "loss_weight": True})


@dataclass_transform(kw_only_default=True)
@dataclass(kw_only=True, slots=True)
class HealOptions:
    """The recipe that heals the pruned model. Each recipe has its own options."""

    shardable: ClassVar[bool] = False
    """`runtime.shard` can shard the frozen weights."""
    streamable: ClassVar[bool] = False
    """The recipe can heal a model that is streamed from disk."""
    quantizes_to: ClassVar[Quantization | None] = None
    """Quantization in which the recipe loads, heals and leaves the model, if it is not free."""
    own_loss: ClassVar[bool] = False
    """Training minimises more than the next token's cross-entropy: another scale than `loss`."""
    uses_micro_batches: ClassVar[bool] = False
    """The micro-batches of a step change a result by more than rounding."""
    recipe: str = MISSING
    """One of the recipes; `heal=NAME` sets it."""

    def trainings(self, num_layers: int) -> list[range]:
        """Return the numbers of removed layers that each training heals together, in rising order.

        None if every point has its own training.
        """
        return []

    def __post_init__(self) -> None:
        loss_weights = []
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not (value > 0 or (value == 0 and "zero_allowed" in option.metadata)):
                raise UserError(f"heal.{option.name}={value}: it must be greater than 0.")
            if option.name == "sequence_length" and value == 1:
                raise UserError("heal.sequence_length=1: one token alone predicts nothing.")
            if "loss_weight" in option.metadata:
                loss_weights.append(value)
        if loss_weights and not any(loss_weights):
            raise UserError(f"heal={self.recipe}: with all loss weights 0, nothing is learned.")


@dataclass(frozen=True, kw_only=True)
class TrainingLoad:
    """What a recipe computes per token, and what it trains and keeps in memory, for estimates.

    A forward pass counts 1. A backward pass counts 1 for the gradients of the input, and 1 more
    where weights are trained.
    """

    layers: float
    """Passes of a layer."""
    heads: float
    """Passes of the vocabulary head."""
    saved_layers: int
    """Layers whose activations are kept for the backward pass."""
    saved_inputs: int = 0
    """Layers of which the input alone is kept: the backward pass recomputes the activations."""
    trained_layers: int = 0
    """Layers that are trained in full."""
    trained_heads: int = 0
    """Matrices of the size of the vocabulary head that are trained in full."""


@dataclass(kw_only=True, slots=True)
class TextOptions(HealOptions):
    """Options of every recipe that reads healing text."""

    reads_dense: ClassVar[bool] = False
    """The dense model runs once on every different sequence, before training."""
    sequence_length: int = MISSING
    """Tokens in each sequence."""

    @property
    def max_sequences(self) -> int:
        """The number of different sequences that the recipe can use."""
        raise NotImplementedError(f"{type(self).__name__} has no `max_sequences`.")

    def solve(self, context: Any, heldout: Callable[[], float]) -> Any:
        """Return the `Healing` of a `HealContext` without training; `heldout` measures its loss."""
        raise NotImplementedError(f"{type(self).__name__} has no `solve`.")


@dataclass(kw_only=True, slots=True)
class TrainingOptions(TextOptions):
    """Options of every recipe that trains, with defaults of Gromov et al., appendix A.1."""

    sequence_length: int = fitting("sequence_length", short=128)
    """Tokens in each sequence, at most the model's context window."""
    steps: int = II("model.healing.steps")
    """Optimiser steps."""
    batch_size: int = fitting("batch_size", short=8)
    """Sequences in each optimiser step, over all devices."""
    micro_batch_size: int = 8
    """Sequences on a device at a time; gradients add up to `batch_size`."""
    learning_rate: float = II("model.healing.weights_learning_rate")
    """Peak learning rate, after a linear warm-up. It decays to 0 as a cosine."""
    warmup_steps: int = zero_allowed(II("warmup:${heal.steps},${model.healing.warmup_steps}"))
    """Steps over which the learning rate rises; fewer than `steps`."""
    optimizer: str = "adamw_torch"
    """One of transformers' `optim` names. The paper does not name an optimiser, weight decay or
    clipping: the defaults are transformers', except the optimiser of `qlora`."""
    weight_decay: float = zero_allowed(0.0)
    """Share of each weight that a step subtracts, times the learning rate."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; a larger one is clipped."""
    eval_every: int = 10
    """Steps between measurements of the held-out loss."""
    save_every: int = 50
    """Steps between checkpoints, from which an interrupted run resumes."""
    stop_when: StopWhen | None = None
    """`plateau`: stop before `steps` once three measurements of the held-out loss in a row improved
    it by less than a thousandth."""

    @property
    def max_sequences(self) -> int:
        """The number of different sequences that the recipe can use."""
        return self.steps * self.batch_size

    def training_load(self, kept: int, dense: int, first: int) -> TrainingLoad:
        """Return the estimated load with `kept` of `dense` layers, `first` of them below the cut.

        This default is for recipes that train little of a layer, such as adapters.
        """
        return TrainingLoad(layers=2 * kept, heads=2, saved_layers=kept)

    def prepare(self, context: Any) -> Any:
        """Prune the model of a `HealContext`, and return the `TrainingSetup` to train it."""
        raise NotImplementedError(f"{type(self).__name__} has no `prepare`.")


@dataclass(kw_only=True, slots=True)
class LoraOptions(TrainingOptions):
    """Options of every recipe that trains LoRA adapters."""

    learning_rate: float = II("model.healing.learning_rate")
    """Peak learning rate, after a linear warm-up. It decays to 0 as a cosine."""
    rank: int = II("model.healing.rank")
    """Rank of the LoRA adapters."""
    alpha: int | None = None
    """Adapters are scaled by alpha / rank; alpha is the rank, as in the paper, if not given."""
    strength: float | None = None
    """Factor on the adapters' output after training; 1 if not given. Less than 1 interpolates
    between the weights before and after training (Wortsman et al., arXiv 2109.01903)."""
    dropout: float = zero_allowed(0.05)
    """Dropout probability of the adapters' input."""
    targets: list[str] | None = None
    """Suffixes of the names of the modules that get LoRA adapters; `model.healing.targets` if null,
    and all feed-forward projections if that is null too."""


@dataclass(kw_only=True, slots=True)
class SpeedConfig:
    """Measurement of the speed of unhealed pruned models, each next to the dense model."""

    rounds: int = 0
    """Measured rounds of each model; 0 measures no speed."""
    batch_size: int = 1
    """Sequences in a batch."""
    prompt_tokens: int = 256
    """Tokens of each prompt (prefill)."""
    new_tokens: int = 33
    """Tokens generated after each prompt; the first one counts as part of prefill."""

    def __post_init__(self) -> None:
        _check_least("eval.speed", self, rounds=0, batch_size=1, prompt_tokens=1, new_tokens=2)


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """Evaluation tasks of the pruned model."""

    tasks: list[str] = MISSING
    """Names of lm-eval tasks or groups, including the bundled ones."""
    num_fewshot: int | None = None
    """Few-shot examples before each question; the default of each task if not given."""
    num_fewshot_of: dict[str, int] = field(default_factory=dict)
    """Few-shot examples of single tasks or groups, overriding `num_fewshot`."""
    fewshot_seed: int | None = None
    """Seed of few-shot examples: shuffles fixed examples, and draws others where a task draws them.
    lm-eval's own order and draw if not given."""
    limit: int | None = None
    """Number of questions per task, from the first; all if not given."""
    chat_template: bool = False
    """Render prompts with the tokenizer's chat template, and few-shot examples as turns."""
    include_path: str | None = None
    """A folder with your own lm-eval task files."""
    trust_task_code: bool = False
    """Run the Python code that task files of `include_path` name, and metrics that are code."""
    datasets_dir: str | None = None
    """A folder with exact copies of hub datasets, each in a folder named by its id, such as
    `FOLDER/cais/mmlu`: tasks read these, and the hub for all others. Records do not distinguish a
    copy from the original."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """Measurement of speed; `eval=speed` turns it on."""

    def __post_init__(self) -> None:
        _expand_home(self, "include_path", "datasets_dir")
        if not self.tasks and not self.speed.rounds:
            raise UserError("eval.tasks=[] is empty: name at least one lm-eval task.")
        _check_least("eval", self, num_fewshot=0, fewshot_seed=0, limit=1)
        for task, shots in self.num_fewshot_of.items():
            if shots < 0:
                raise UserError(f"eval.num_fewshot_of.{task}={shots}: it must be at least 0.")


class Calibration(Enum):
    """Input on which layer distances are measured."""

    text = "text"
    questions = "questions"


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Text for layer distances, the held-out loss and healing, in disjoint parts."""

    files: list[str] | None = None
    """Your own text: `.txt`, or `.jsonl` or `.parquet` with a field `text`, or with `messages`:
    conversations, which the model's chat template renders. The bundled text if neither files nor
    hub is given."""
    hub: str | None = None
    """A dataset on the hub, or a folder with one; read as a stream."""
    config: str | None = None
    """Configuration of the dataset, if it has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    field: str = "text"
    """Column of the dataset with text or conversations."""
    healing_split: str = "train"
    """Split of the dataset for healing."""
    heldout_split: str = "validation"
    """Split for the held-out loss and, on other documents, for layer distances."""
    sequence_length: int = 128
    """Tokens in each sequence."""
    calibration: Calibration = Calibration.text
    """`questions`: measure layer distances on all questions of `eval.tasks`, as lm-eval renders
    them, with their correct answers. Healing and the held-out loss use the text in any case."""
    calibration_sequences: int = 64
    """Sequences over which layer distances are averaged."""
    heldout_sequences: int = 16
    """Sequences on which the held-out loss is measured."""

    def __post_init__(self) -> None:
        _expand_home(self, "files", "hub")
        if self.files is not None and self.hub is not None:
            raise UserError("data.files and data.hub exclude each other: remove one.")
        if self.files is not None and not self.files:
            raise UserError("data.files is empty: add data.files=[FILE,...] to the command.")
        _check_least("data", self, sequence_length=2, calibration_sequences=1, heldout_sequences=1)


FORMATS = ("none", "hf", "gguf")


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Format in which pruned models are written."""

    format: str = MISSING
    """`none`, `hf`: a folder that transformers loads, or `gguf`: a file for llama.cpp."""
    path: str | None = None
    """Folder of the checkpoint, if the command makes one point. If not given, `model` in the folder
    of each point."""
    dtype: Dtype | None = None
    """Precision of the weights on disk; the precision of the original files if not given."""
    quantization: Quantization | None = None
    """Quantization in which users should load the checkpoint. The model card says how, and
    `fit.memory` assumes it. The weights on disk are not quantized."""
    gguf_from: str | None = None
    """For `export=gguf`, the dense model's GGUF file. If not given, the file in `model.path`."""
    gguf_type: GGUFType | None = None
    """For `export=gguf`, the type of the tensors that healing changed; the type that they had if
    not given, or q8_0 where the gguf package cannot write that type (K-quants)."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UserError(
                f"export.format={self.format} is not known: choose one of {', '.join(FORMATS)}."
            )


class TrackerMode(Enum):
    """Use of Weights & Biases."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """The Weights & Biases project that shows the curves."""

    mode: TrackerMode = TrackerMode.offline
    """`offline`: folders for `wandb sync`. `online`: the server. `disabled`: wandb is not used."""
    project: str = "layerprune"
    """Name of the project."""
    entity: str | None = None
    """User or team that owns the project; the account's default if not given."""


class FigureWidth(Enum):
    """Width for which the files of figures are drawn."""

    page = "page"
    column = "column"


@dataclass(kw_only=True, slots=True)
class FigureConfig:
    """Files of figures; results do not depend on it."""

    width: FigureWidth = FigureWidth.page
    """`page`, or `column`: panels below each other, readable in a column of 3.3 inches."""


class DeviceMap(Enum):
    """Placement of a model's layers on several devices."""

    auto = "auto"


class MatmulPrecision(Enum):
    """Precision of products of float32 matrices, as PyTorch names it."""

    highest = "highest"
    high = "high"
    medium = "medium"


SAME_MEMORY = "2GiB"
"""Default of `runtime.memory` with `runtime.deterministic`: free memory differs from run to run."""


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Devices, memory and folders of a run; none of these changes a result beyond rounding."""

    outputs: str = "outputs"
    """Folder that holds the studies and the cache."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    device_map: DeviceMap | None = None
    """`auto`: spread the model over all GPUs, and offload what does not fit to memory or disk.
    Such models can be evaluated, not healed."""
    shard: bool = False
    """Shard the frozen weights over the processes of `torchrun` during healing (FSDP): for
    `heal=lora` and `heal=qlora`."""
    stream: bool = False
    """Keep one layer in memory at a time. Each pass reads it once from the model's files, for all
    pruned models and as many sequences as `memory` can buffer. Such models can be evaluated, or
    healed by `heal=seam`."""
    spill: bool = False
    """With `stream`: buffer hidden states on disk, in `outputs`, instead of in memory. This needs
    fewer passes over the model's files."""
    threads: int | None = None
    """CPU threads; PyTorch's choice if not given."""
    deterministic: bool = False
    """Make points bit-identical when recomputed on the same machine with as many threads:
    use only PyTorch's deterministic algorithms, and a `memory` of 2 GiB unless it is given, since
    the batch size decides how sums are rounded. Records state it."""
    float32_matmul_precision: MatmulPrecision = MatmulPrecision.highest
    """How a GPU multiplies float32 matrices: `highest` in float32, `high` in TF32, `medium` in
    bfloat16 where PyTorch can. `high` and `medium` trade accuracy for speed, and their points have
    different keys."""
    memory: str | None = None
    """Memory budget next to the model during evaluation, such as `2GiB`; half of the free memory if
    not given. It decides batch sizes and the number of buffered states."""

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes; None for half of the free memory."""
        if self.memory is None:
            return num_bytes(SAME_MEMORY) if self.deterministic else None
        return num_bytes(self.memory)

    def __post_init__(self) -> None:
        _expand_home(self, "outputs")
        _check_size("runtime.memory", self.memory)
        _check_least("runtime", self, threads=1)
        if self.device_map is not None and self.device != "auto":
            raise UserError("runtime.device and runtime.device_map exclude each other: remove one.")
        if self.device_map is not None and self.stream:
            raise UserError("runtime.stream and runtime.device_map exclude each other: remove one.")
        if self.spill and not self.stream:
            raise UserError("runtime.spill has no effect without runtime.stream: remove it.")


@dataclass(kw_only=True, slots=True)
class FitConfig:
    """A budget. Any of its limits starts a search for the smallest model that meets all of them."""

    keep: float | None = None
    """Share of the dense model's margin over chance to keep, on `eval.tasks`: as many layers are
    removed as that allows."""
    memory: str | None = None
    """Maximum size of the exported weights, such as `6GiB`. Without `keep`, no more layers are
    removed than that requires."""
    speedup: float | None = None
    """Minimum ratio of operations per token, dense to pruned model; of decoding speed if
    `eval.speed.rounds` measures it."""

    @property
    def has_budget(self) -> bool:
        """True if any limit is given."""
        return (self.keep, self.memory, self.speedup) != (None, None, None)

    @property
    def memory_bytes(self) -> int | None:
        """Value of `memory` as a number."""
        return None if self.memory is None else num_bytes(self.memory)

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            fix = "fit.keep=1 for all of it" if self.keep > 1 else "a share such as fit.keep=0.5"
            raise UserError(
                f"fit.keep={self.keep:g} is not a share of the dense model's margin over chance: "
                f"use {fix}."
            )
        _check_size("fit.memory", self.memory)
        if self.speedup is not None and not self.speedup > 1:
            raise UserError(
                f"fit.speedup={self.speedup:g} is met by the dense model: use more than 1, "
                "such as fit.speedup=1.2."
            )


@dataclass(kw_only=True, slots=True)
class Config:
    """One job: one model, one metric, one strategy, one recipe, one or more fractions."""

    study: str = "default"
    """Name of the folder under `runtime.outputs` that collects the points."""
    seed: int = 0
    """Seed of all random draws: order of healing text, initial LoRA weights, random layers."""
    dry_run: bool = False
    """Print the status and the estimated cost of all points without computing any."""
    model: ModelConfig = MISSING
    metric: MetricOptions = MISSING
    prune: PruneOptions = MISSING
    heal: HealOptions = MISSING
    eval: EvalConfig = MISSING
    data: DataConfig = MISSING
    tracker: TrackerConfig = MISSING
    figure: FigureConfig = field(default_factory=FigureConfig)
    export: ExportConfig = MISSING
    fit: FitConfig = field(default_factory=FitConfig)
    runtime: RuntimeConfig = MISSING

    def __post_init__(self) -> None:
        for check in (self._values, self._quantization, self._offloading, self._search):
            for error in check():
                raise UserError(error)
        if isinstance(self.heal, LoraOptions) and self.heal.targets is None:
            # Not interpolated in YAML: OmegaConf cannot refer to a list that is null.
            self.heal.targets = self.model.healing.targets

    @property
    def healed_quantization(self) -> Quantization | None:
        """Quantization of the model while it is healed, and after."""
        return self.heal.quantizes_to or self.model.quantization

    def check_lengths(self, model: str, window: int | None) -> None:
        """Raise `UserError` for sequences longer than the context window of a model.

        The paper's sequences for healing become as long as the window.
        """
        speed, paper = self.eval.speed, HealingFacts().sequence_length
        if isinstance(self.heal, TextOptions) and self.heal.sequence_length == paper:
            self.heal.sequence_length = min(paper, window or paper)
        lengths = {"data.sequence_length": self.data.sequence_length}
        if isinstance(self.heal, TextOptions):
            lengths["heal.sequence_length"] = self.heal.sequence_length
        if speed.rounds:  # the last token is generated, and never an input
            lengths["eval.speed.prompt_tokens + new_tokens - 1"] = (
                speed.prompt_tokens + speed.new_tokens - 1
            )
        for key, tokens in lengths.items():
            if window is not None and tokens > window:
                raise UserError(f"{key}={tokens}: {model} reads {window} tokens at most.")

    def _values(self) -> Iterator[str]:
        name, speed = self.study, self.eval.speed
        if not name or name == "cache" or name.startswith(".") or set(name) & set("/\\"):
            yield (
                f"study={name!r}: use the name of a folder, without slashes, not starting with a "
                "dot, and not 'cache'."
            )
        if not 0 <= self.seed < 2**32:
            yield f"seed={self.seed}: use a number from 0 to 2**32 - 1."
        if speed.rounds and self.heal.recipe != "none":
            yield (
                f"eval.speed.rounds={speed.rounds} with heal={self.heal.recipe}: "
                "healing does not change speed; measure it with heal=none."
            )
        if isinstance(self.heal, TrainingOptions) and self.heal.warmup_steps >= self.heal.steps:
            yield (
                f"heal.warmup_steps={self.heal.warmup_steps}: the run has no more steps "
                f"(heal.steps={self.heal.steps}), so the learning rate would not reach its peak. "
                f"Use heal.warmup_steps={self.heal.steps // 10}."
            )
        if self.data.calibration is Calibration.questions:
            if not self.eval.tasks:
                yield "data.calibration=questions: there are no tasks, add eval.tasks=[NAME]."
            if self.eval.chat_template:
                yield "data.calibration=questions and eval.chat_template exclude each other."

    def _quantization(self) -> Iterator[str]:
        """Check recipe and metric for a quantized model."""
        quantization, recipe = self.model.quantization, self.heal.recipe
        if quantization is None:
            return
        trained = self.heal.quantizes_to
        if trained not in (None, quantization):
            yield (
                f"heal={recipe} trains on {trained.value}, not on "
                f"model.quantization={quantization.value}: remove it, or use "
                f"model.quantization={trained.value}."
            )
        if recipe != "none" and trained is None:
            lora = isinstance(self.heal, LoraOptions)
            action = (
                "trains on weights in model.dtype" if lora else "changes the weights themselves"
            )
            yield f"heal={recipe} {action}: remove model.quantization, or use heal=qlora."
        if self.metric.uses_gradients:
            yield (
                f"metric={self.metric.name} needs gradients of unquantized weights: "
                "remove model.quantization."
            )

    def _offloading(self) -> Iterator[str]:
        """Check recipe and metric for a model that is sharded, offloaded or streamed."""
        recipe, stream, rounds = self.heal.recipe, self.runtime.stream, self.eval.speed.rounds
        if self.runtime.shard and not self.heal.shardable:
            yield (
                "runtime.shard shards the frozen weights of heal=lora and heal=qlora: "
                f"with heal={recipe}, remove it."
            )
        if self.runtime.device_map is None and not stream:
            return
        key = "runtime.stream" if stream else "runtime.device_map"
        if stream and rounds:
            yield f"eval.speed.rounds={rounds} needs a model in memory: remove {key}."
        if recipe != "none" and not (stream and self.heal.streamable):
            yield f"heal={recipe} needs a model in the memory of one device: remove {key}."
        if self.metric.uses_gradients:
            yield f"metric={self.metric.name} needs gradients of a model in memory: remove {key}."

    def _search(self) -> Iterator[str]:
        """Check options of the search for the smallest model within a budget."""
        if self.export.path is not None and self.export.format == "none":
            yield f"export.path={self.export.path}: no checkpoint is written, add export=hf."
        hinted = self.export.dtype or self.export.quantization
        if self.export.format == "gguf":
            if hinted:
                yield (
                    "export.dtype and export.quantization have no effect with export=gguf: remove "
                    "them, or use export=hf. Tensors keep the types of the GGUF file."
                )
            if self.fit.has_budget:
                yield (
                    "fit checks a checkpoint of transformers: use export=hf, and then export=gguf "
                    "with prune.fraction=FRACTION instead of fit."
                )
            if self.runtime.stream:
                yield "export=gguf checks the model in memory: remove runtime.stream."
        elif self.export.gguf_from or self.export.gguf_type:
            yield "export.gguf_from and export.gguf_type describe a GGUF file: add export=gguf."
        if not self.fit.has_budget:
            if hinted and self.export.format == "none":
                yield "export.dtype and export.quantization describe a checkpoint: add export=hf."
            return
        if self.prune.fraction != DEFAULT_FRACTIONS:  # None with the other two
            yield (
                "fit decides how many layers to remove: remove prune.fraction, "
                "prune.layers_dropped and prune.layers."
            )
        if self.fit.keep is not None and not self.eval.tasks:
            yield f"fit.keep={self.fit.keep}: there are no tasks, add eval.tasks=[NAME]."
