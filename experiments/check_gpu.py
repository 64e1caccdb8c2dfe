"""Checks on a GPU what no CPU can show, and writes the numbers to experiments/gpu.md.

    make check-gpu        or        python experiments/check_gpu.py [--tiny] [--only NAME ...]

About ten minutes on one card, without a network. `--tiny` runs the script itself on a CPU, with
tiny shapes, and writes nothing. Models: the bundled one, and a Llama of random weights with the
widths of Llama-2-7B. Each section is measured against a stated tolerance, and none stops the
others; the exit status is 1 if one fails. With two GPUs there are two more sections.
"""

import argparse
import copy
import gc
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from layerprune.config.compose import compose
from layerprune.config.schema import Dtype, Quantization, SpeedConfig
from layerprune.data.text import read_text
from layerprune.evaluate.heldout_loss import heldout_loss
from layerprune.evaluate.request_groups import Context, Option
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.speed import speeds
from layerprune.evaluate.token_tree import batches, token_trees
from layerprune.evaluate.token_tree_batch import (
    TokenTreeBatch,
    max_tree_difference,
    tree_difference,
)
from layerprune.heal.healing import PointHealing
from layerprune.model import offload
from layerprune.model.load import load
from layerprune.model.quantized import weight_bytes
from layerprune.model.source import Source, locate
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.prune.layer_distances import measure_distances
from layerprune.prune.metrics import MetricContext
from layerprune.prune.plan import Plan
from layerprune.record.point import Point
from layerprune.run.pipeline import run
from layerprune.runtime import memory
from layerprune.shared_forward.memory_budget import MAX_TREE_TOKENS, MemoryBudget
from layerprune.shared_forward.traversal import traverse

NOTE = Path(__file__).parent / "gpu.md"
ROOT = Path(__file__).resolve().parent.parent
FEWSHOT = "The following are questions.\n" + "Question: one?\nAnswer: one\n" * 6
KINDS = (None, Quantization.nf4, Quantization.int8)
VOCABULARY = 49152
"""Of the bundled model, whose tokenizer the random model gets."""


@dataclass(frozen=True)
class Finding:
    """What a section measured."""

    measured: str
    expected: str = "no error"
    passed: bool = True


@dataclass
class Machine:
    """The device, the shapes that suit it, and a folder for what sections write."""

    tiny: bool
    folder: Path
    matmul_flops: float = 0.0
    """Measured operations per second of a large bfloat16 product."""

    @property
    def device(self) -> str:
        """The device under test."""
        return "cpu" if self.tiny else "cuda:0"

    @property
    def widths(self) -> dict[str, int]:
        """Settings of the random Llama."""
        small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        large = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
        return {
            **(small if self.tiny else large),
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
        }

    @property
    def layers(self) -> int:
        """Layers of the random Llama."""
        return 4 if self.tiny else 32

    @property
    def few(self) -> int:
        """Layers where a complete model would take too long."""
        return 4 if self.tiny else 8

    def pick(self, tiny: Any, large: Any) -> Any:
        """Return a size for this machine."""
        return tiny if self.tiny else large

    def small_model(self) -> Source:
        """Return the bundled model; with `--tiny` a random one."""
        if self.tiny:
            return locate(
                compose("model=custom", f"model.path={self.random_folder()}").model, self.folder
            )
        return bundled()

    def random_llama(self, layers: int) -> PreTrainedModel:
        """Return a Llama of random weights in bfloat16 on the device."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            torch.manual_seed(0)
            with torch.device(self.device):
                return LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **self.widths)).eval()
        finally:
            torch.set_default_dtype(before)

    def random_folder(self) -> Path:
        """Return the folder of a random Llama with few layers and the bundled tokenizer."""
        folder = self.folder / "random"
        if not folder.is_dir():
            self.random_llama(self.few).save_pretrained(folder)
            for file in bundled().folder.glob("tokenizer*"):
                shutil.copy(file, folder)
        return folder

    def ids(self, *shape: int) -> torch.Tensor:
        """Return random token ids, the same each time."""
        return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(0))

    def seconds(self, work: Callable[[], object], times: int = 3) -> float:
        """Return the median duration of `work`, which runs once before."""
        durations = []
        for _ in range(times + 1):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            durations.append(time.perf_counter() - started)
        return statistics.median(durations[1:])

    def wait(self) -> None:
        """Wait for the device."""
        if not self.tiny:
            torch.cuda.synchronize(self.device)

    def peak(self) -> int:
        """Return the most bytes allocated since `reset_peak`."""
        return 0 if self.tiny else torch.cuda.max_memory_allocated(self.device)


def bundled() -> Source:
    """Return the bundled model."""
    return locate(compose("model=smollm2_135m").model, ROOT / "outputs" / "cache")


def machine_facts(m: Machine) -> Finding:
    """Name the card and the versions, and measure what its matrix products reach."""
    size = m.pick(256, 8192)
    matrix = torch.randn(size, size, device=m.device, dtype=torch.bfloat16)
    m.matmul_flops = 2 * size**3 / m.seconds(lambda: matrix @ matrix, 10)
    name = "CPU" if m.tiny else torch.cuda.get_device_name()
    versions = ", ".join(
        f"{package} {version(package)}"
        for package in ("torch", "transformers", "bitsandbytes", "peft", "accelerate")
    )
    free = memory.free(torch.device(m.device)) / 2**30
    return Finding(
        f"{name}, {torch.cuda.device_count()} GPU(s), {free:.1f} GiB free; {versions}; "
        f"{m.matmul_flops / 1e12:.0f} TFLOP/s in bfloat16"
    )


def peak_before_cuda(m: Machine) -> Finding:
    """Restart the measurement of memory in a process that has not used CUDA."""
    code = (
        "import torch; from layerprune.runtime import memory; "
        f"memory.reset_peak(torch.device({m.device!r})); print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return Finding(done.stdout.strip() or done.stderr[-200:], "fine", "fine" in done.stdout)


def attention_kernels(m: Machine) -> Finding:
    """Compare each attention kernel, with the masks of the shared pass, with float32."""
    parts, worst = [], 0.0
    for rows, width, prefix in ((8, 256, 600), (8, 251, 333), (8, 192, 64)):
        rows, heads = m.pick(1, rows), m.pick(2, 32)
        query = torch.randn(rows, heads, width, 128, device=m.device, dtype=torch.bfloat16)
        key, value = (
            torch.randn(rows, heads, prefix + width, 128, device=m.device, dtype=torch.bfloat16)
            for _ in range(2)
        )
        sees = torch.cat([torch.ones(width, prefix), torch.ones(width, width).tril()], 1).bool()
        mask = torch.zeros(rows, 1, width, prefix + width, dtype=torch.bfloat16)
        mask = mask.masked_fill(~sees, torch.finfo(torch.bfloat16).min).to(m.device)
        exact = functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=mask.float()
        )

        def attend(q: Any = query, k: Any = key, v: Any = value, mask: Any = mask) -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        error = float((attend().float() - exact).norm() / exact.norm())
        worst = max(worst, error)
        parts.append(f"{width} after {prefix}: {error:.1e}")
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            with suppress(RuntimeError), sdpa_kernel(backend):
                error = float((attend().float() - exact).norm() / exact.norm())
                parts.append(f"{backend.name} {error:.1e}, {m.seconds(attend) * 1e3:.2f} ms")
    return Finding("; ".join(parts), "0.01 at most by default", worst < 0.01)


def distances(m: Machine) -> Finding:
    """Compare distances in float32 with the CPU's."""
    cpu, there = (
        load(m.small_model(), Dtype.float32, device).model for device in ("cpu", m.device)
    )
    ids, parts, worst = m.ids(8, 64), [], 0.0
    for name in ("angular", "cka", "euclidean", "taylor"):
        options = compose(f"metric={name}").metric
        expected, actual = (
            measure_distances(options, MetricContext(model, ids, 0, MemoryBudget.of(model)))
            for model in (cpu, there)
        )
        error = float(np.abs(expected - actual).max() / np.abs(expected).max())
        worst = max(worst, error)
        parts.append(f"{name} {error:.0e}")
    return Finding(", ".join(parts), "1e-3 at most", worst < 1e-3)


def _study(m: Machine, device: str, outputs: str, *overrides: str) -> list[Point]:
    return run(
        compose(
            "model=custom", f"model.path={m.small_model().folder}", f"runtime.device={device}",
            f"runtime.outputs={m.folder / outputs}", "prune.fraction=[0,0.25,0.5]",
            "data.calibration_sequences=16", "data.heldout_sequences=16",
            f"eval.limit={m.pick(2, 20)}", "eval.tasks=[facts]", *overrides,
        )
    )  # fmt: skip


def pipeline(m: Machine) -> Finding:
    """Compare cuts, scores and losses of a whole run in float32 with the CPU's."""
    cpu, there = _study(m, "cpu", "cpu"), _study(m, m.device, "there")
    worst = max(abs(a.loss.nats - b.loss.nats) for a, b in zip(cpu, there, strict=True))
    cuts = [point.plan.dropped for point in cpu] == [point.plan.dropped for point in there]
    scores = sum(a.scores == b.scores for a, b in zip(cpu, there, strict=True))
    return Finding(
        f"cuts {'equal' if cuts else 'differ'}, losses within {worst:.1e} nats, scores equal for "
        f"{scores} of {len(cpu)} points",
        "equal cuts, 1e-3 nats at most",
        cuts and worst < 1e-3,
    )


def deterministic(m: Machine) -> Finding:
    """Run the same twice with deterministic algorithms, after other jobs of this process."""
    first, again = (
        _study(m, m.device, f"deterministic-{number}", "runtime.deterministic=true")
        for number in range(2)
    )
    same = [(a.loss, a.scores) for a in first] == [(b.loss, b.scores) for b in again]
    return Finding("bit-identical" if same else "different", "bit-identical", same)


def answers(m: Machine) -> Finding:
    """Compare the shared pass with lm-eval's backend on each cut model."""
    pairs = [
        (f"{FEWSHOT}Question: {word}?\nAnswer:", option)
        for word in ("a", "bcd", "some longer one")
        for option in (" yes", " no", " a longer one")
    ]
    asked = [Instance("loglikelihood", {}, arguments=pair, idx=at) for at, pair in enumerate(pairs)]
    parts, passed = [], True
    for dtype, tolerance in ((Dtype.float32, 1e-3), (Dtype.bfloat16, 0.3)):
        loaded = load(m.small_model(), dtype, m.device)
        layers = range(len(decoder_stack(loaded.model).layers))
        cuts = m.pick(((), (1, 2), (2,)), ((), (20, 21, 22), (5, 6)))
        paths = [tuple(at for at in layers if at not in cut) for cut in cuts]
        scorer, worst = Scorer(loaded.model, loaded.tokenizer, paths=paths), 0.0
        for scorer.path, path in enumerate(paths):
            cut = drop_layers(copy.deepcopy(loaded.model), [at for at in layers if at not in path])
            theirs = HFLM(
                pretrained=cut, tokenizer=loaded.tokenizer, backend="causal", batch_size=1
            ).loglikelihood(asked, disable_tqdm=True)
            ours = scorer.loglikelihood(asked)
            worst = max(worst, *(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)))
        passed = passed and worst < tolerance
        parts.append(f"{dtype.value} within {worst:.1e} nats")
    return Finding("; ".join(parts), "1e-3 in float32, 0.3 in bfloat16 at most", passed)


def tree_differences(m: Machine) -> Finding:
    """Measure how far a layer's states in a token tree are from those in its branches."""
    parts, passed = [], True
    for dtype, kind in (
        (Dtype.float32, None), (Dtype.bfloat16, None), (Dtype.float16, None),
        (Dtype.bfloat16, Quantization.nf4),
    ):  # fmt: skip
        model = load(m.small_model(), dtype, m.device, kind).model
        difference = tree_difference(model)
        passed = passed and difference < max_tree_difference(model) / 2
        parts.append(f"{kind.value if kind else dtype.value} {difference:.1e}")
    difference = tree_difference(m.random_llama(m.few))
    parts.append(f"random, widths of 7B, {difference:.1e}")
    return Finding(", ".join(parts), "half of what is accepted", passed and difference < 0.008)


def _questions(count: int, length: int) -> list[Context]:
    dice = random.Random(0)
    return [
        Context(
            tuple(dice.randrange(VOCABULARY) for _ in range(dice.randint(length // 2, 2 * length))),
            tuple(Option(4 * number + option, (100 + option,)) for option in range(4)),
        )
        for number in range(count)
    ]


def _tree_batches(
    m: Machine, model: PreTrainedModel, asked: Sequence[Context], prefix: int, paths: int
) -> list[TokenTreeBatch]:
    budget, ids = MemoryBudget.of(model), tuple(range(prefix))
    found: list[Any] = [{} for _ in range(paths)]
    parts = batches(token_trees(asked, MAX_TREE_TOKENS), lambda width: budget.rows(width, prefix))
    return [TokenTreeBatch(part, model, found, True, ids) for part in parts]


def shared_pass(m: Machine) -> Finding:
    """Time the shape of MMLU: 256 questions after 600 tokens, for one model and for six cuts."""
    model, prefix = m.random_llama(m.layers), m.pick(40, 600)
    stack = decoder_stack(model).layers
    weights = sum(part.numel() for part in stack.parameters()) / m.layers
    asked = _questions(m.pick(16, 256), m.pick(20, 87))
    cuts = (0, 1, 2) if m.tiny else (0, 3, 6, 10, 14, 18)
    end = m.layers - 1
    curve = [tuple(at for at in range(m.layers) if not end - n <= at < end) for n in cuts]
    parts, best = [], 0.0
    for title, paths in (("one model", curve[:1]), (f"{len(curve)} cuts", curve)):
        started = time.perf_counter()
        made = _tree_batches(m, model, asked, prefix, len(paths))
        host_s = time.perf_counter() - started
        memory.reset_peak(torch.device(m.device))
        counted: list[int] = []

        def work(paths: Any = paths, made: Any = made, counted: Any = counted) -> None:
            counted.clear()
            traverse(model, paths, made, MemoryBudget.of(model), counted.append)

        took = m.seconds(work)
        runs = sum(counted)  # tokens times layers
        width = m.widths["hidden_size"]
        flops = runs * (2 * weights + 4 * width * (prefix + MAX_TREE_TOKENS)) / took
        best = max(best, flops / m.matmul_flops)
        parts.append(
            f"{title}: {took:.2f} s, and {host_s:.2f} s to make batches; "
            f"{runs / m.layers / took:,.0f} tokens/s, {flops / m.matmul_flops:.0%} of the card's "
            f"matrix products, {m.peak() / 2**30:.1f} GiB"
        )
    return Finding("; ".join(parts), "at least 50 %", m.tiny or best >= 0.5)


def long_prefix(m: Machine) -> Finding:
    """Run questions after 2,600 tokens within the memory budget."""
    model = m.random_llama(m.layers)
    free = memory.free(torch.device(m.device))
    made = _tree_batches(m, model, _questions(m.pick(16, 128), 150), m.pick(200, 2600), 1)
    memory.reset_peak(torch.device(m.device))
    before = m.peak()
    traverse(model, [tuple(range(m.layers))], made, MemoryBudget.of(model))
    used = m.peak() - before
    return Finding(
        f"{used / 2**30:.1f} of {free / 2**30:.1f} GiB", "half at most", used <= free / 2
    )


def heldout(m: Machine) -> Finding:
    """Time the loss of 2,048 sequences of 128 tokens."""
    model, ids = m.random_llama(m.layers), m.ids(m.pick(8, 2048), m.pick(16, 128))
    return Finding(f"{ids.numel() / m.seconds(lambda: heldout_loss(model, ids), 1):,.0f} tokens/s")


def speed(m: Machine) -> Finding:
    """Measure the bundled model's speed, unquantised and quantised."""
    parts, flops = [], set()
    config = SpeedConfig(rounds=1, batch_size=2, prompt_tokens=64, new_tokens=8)
    for kind in KINDS:
        model = load(m.small_model(), Dtype.bfloat16, m.device, kind).model
        every_layer = tuple(range(len(decoder_stack(model).layers)))
        dense = speeds(model, [every_layer], config)[every_layer].dense
        flops.add(dense.flops_per_token)
        parts.append(
            f"{kind.value if kind else 'bfloat16'}: {dense.weight_bytes / 1e6:.0f} MB, first token "
            f"after {dense.first_token_s.median * 1e3:.1f} ms, {dense.decode.median:.0f} tokens/s"
        )
    parts.append(f"{flops.pop():.2e} operations per token")
    return Finding("; ".join(parts), "equal operations", not flops)


def healing(m: Machine) -> Finding:
    """Time recipes on the widths of 7B; see that their weights have the model's precision."""
    length, parts, passed = m.pick(32, 2048), [], True
    for recipe in ("qlora", "lora", "seam", "distill"):
        more = ("heal.text_share=1", "heal.sequences=32") if recipe == "seam" else ()
        config = compose(
            "model=custom", f"model.path={m.random_folder()}", f"heal={recipe}",
            f"runtime.device={m.device}", "model.dtype=bfloat16", "heal.steps=4",
            "heal.batch_size=4", "heal.micro_batch_size=1", f"heal.sequence_length={length}",
            "heal.warmup_steps=1", "heal.eval_every=4", "heal.save_every=4", *more,
        )  # fmt: skip
        folder, ids = m.folder / recipe, m.ids(4, length)
        healed = PointHealing(
            locate(config.model, m.folder / "cache"),
            Plan("block", m.few, (m.few - 3, m.few - 2), 0.1, "a check"),
            read_text(config.data), config, folder, folder / "checkpoints",
            lambda model, ids=ids: heldout_loss(model, ids).nats,
        ).run()  # fmt: skip
        assert healed is not None
        steps = healed.healing.steps
        took = min(step.seconds for step in steps if step.seconds is not None)
        kinds = {
            part.dtype
            for name, part in healed.loaded.model.named_parameters()
            if part.is_floating_point() and "lora_" not in name
        }
        passed = passed and kinds == {torch.bfloat16}
        parts.append(
            f"{recipe} {4 * length / took:,.0f} tokens/s, "
            f"{healed.healing.peak_memory_bytes / 2**30:.1f} GiB, loss "
            f"{healed.healing.heldout_before:.2f} to {healed.healing.heldout_after:.2f}"
        )
        del healed
        gc.collect()
    return Finding("; ".join(parts), "weights in bfloat16 afterwards", passed)


def streaming(m: Machine) -> Finding:
    """Read layers from disk as they run; compare with the model in memory."""
    source = locate(compose("model=custom", f"model.path={m.random_folder()}").model, m.folder)
    ids, parts, passed = m.ids(4, 64), [], True
    for kind in KINDS:
        losses, sizes, took = [], [], 0.0
        for stream in (False, True):
            model = load(source, Dtype.bfloat16, m.device, kind, stream=stream).model
            losses.append(heldout_loss(model, ids).nats)
            took = m.seconds(lambda model=model: heldout_loss(model, ids), 1)
            sizes.append(weight_bytes(model))
            del model
            gc.collect()
        difference = abs(losses[0] - losses[1])
        passed = passed and difference < 1e-2 and sizes[0] == sizes[1]
        size = sum(file.stat().st_size for file in m.random_folder().glob("*.safetensors"))
        parts.append(
            f"{kind.value if kind else 'bfloat16'} {took:.2f} s per pass, "
            f"{size / took / 1e9:.1f} GB/s, loss within {difference:.1e}, bytes "
            f"{'equal' if sizes[0] == sizes[1] else f'{sizes[1]} for {sizes[0]}'}"
        )
    model = load(source, Dtype.bfloat16, m.device, stream=True).model
    read = offload._read_pinned(decoder_stack(model).layers[1])
    pinned = [weight.is_pinned() for weights in read.values() for weight in weights.values()]
    passed = passed and (m.device == "cpu" or (len(pinned) > 0 and all(pinned)))
    parts.append(f"{sum(pinned)} of {len(pinned)} weights read ahead are in pinned memory")
    return Finding("; ".join(parts), "0.01 nats at most, equal bytes, all pinned", passed)


def generation(m: Machine) -> Finding:
    """Time generation, in batches of 8 and of as many as the budget allows."""
    model, parts = m.random_llama(m.few), []
    for size in (8, MemoryBudget.of(model).sequences(96)):
        ids = m.ids(size, 64).to(m.device)

        def write(ids: torch.Tensor = ids) -> None:
            model.generate(  # type: ignore[operator] # from a mixin
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, min_new_tokens=32,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip

        parts.append(f"{size} together {size * 32 / m.seconds(write, 1):,.0f} tokens/s")
    return Finding(f"{', '.join(parts)}, {m.few} layers")


def loading(m: Machine) -> Finding:
    """Time the loading of a model onto the device."""
    source = locate(compose("model=custom", f"model.path={m.random_folder()}").model, m.folder)
    size = sum(file.stat().st_size for file in m.random_folder().glob("*.safetensors"))
    took = m.seconds(lambda: load(source, Dtype.bfloat16, m.device), 1)
    return Finding(f"{size / 1e9:.2f} GB in {took:.1f} s, {size / took / 1e9:.1f} GB/s")


def _torchrun(m: Machine, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
            "main.py", "model=smollm2_135m", f"runtime.outputs={m.folder / name}", "heal.steps=4",
            "heal.batch_size=4", "heal.micro_batch_size=1", "heal.warmup_steps=1",
            "prune.fraction=[0.2]", "eval.tasks=[facts]", "eval.limit=4", *overrides,
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def two_gpus(m: Machine) -> Finding:
    """Heal on two GPUs, each with all weights."""
    done = _torchrun(m, "two", "heal=lora")
    return Finding(done.stderr[-300:] if done.returncode else "status 0", "status 0",
                   done.returncode == 0)  # fmt: skip


def two_gpus_sharded(m: Machine) -> Finding:
    """Heal on two GPUs with sharded weights."""
    done = _torchrun(m, "sharded", "heal=qlora", "runtime.shard=true")
    return Finding(done.stderr[-300:] if done.returncode else "status 0", "status 0",
                   done.returncode == 0)  # fmt: skip


SECTIONS = (
    machine_facts, peak_before_cuda, attention_kernels, distances, pipeline, answers,
    tree_differences, shared_pass, long_prefix, heldout, speed, healing, streaming, generation,
    loading, deterministic,
)  # fmt: skip
TWO_GPUS = (two_gpus, two_gpus_sharded)


def findings(m: Machine, only: Sequence[str]) -> Iterator[tuple[str, Finding, float]]:
    """Yield each section's name, finding and seconds; an exception is a finding."""
    sections = [*SECTIONS, *(TWO_GPUS if not m.tiny and torch.cuda.device_count() > 1 else ())]
    for section in sections:
        if only and section.__name__ not in only:
            continue
        started = time.monotonic()
        try:
            finding = section(m)
        except Exception as error:  # the others go on
            traceback.print_exc()
            text = " ".join(str(error).split())[:200]
            finding = Finding(f"{type(error).__name__}: {text}", passed=False)
        gc.collect()
        if not m.tiny:
            torch.cuda.empty_cache()
        yield section.__name__, finding, time.monotonic() - started


def main() -> int:
    """Run the sections, print each, write the note; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="run the script itself, on a CPU")
    parser.add_argument("--only", nargs="+", default=[], help="names of sections")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("check_gpu: no CUDA device is available. --tiny runs the script on a CPU.")
        return 2
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="check-gpu-") as folder:
        for name, finding, seconds in findings(Machine(options.tiny, Path(folder)), options.only):
            result = "pass" if finding.passed else "FAIL"
            failed += not finding.passed
            title = name.replace("_", " ")
            print(f"{result}  {title}: {finding.measured}  [{seconds:.0f} s]", flush=True)
            row = (title, finding.measured, finding.expected, result, f"{seconds:.0f}")
            rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
    if not options.tiny and not options.only:
        NOTE.write_text(
            "# On a GPU\n\n<!-- written by make check-gpu -->\n\n"
            f"Checked on {datetime.now(UTC):%Y-%m-%d}.\n\n"
            "| section | measured | expected | result | seconds |\n|:--|:--|:--|:--|--:|\n"
            + "\n".join(rows)
            + "\n"
        )
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
