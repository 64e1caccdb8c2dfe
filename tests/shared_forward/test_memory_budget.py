"""A pass keeps to its memory budget, and goes on with half of it if memory runs out."""

import weakref

import pytest
import torch
from accelerate import cpu_offload
from lm_eval.api.instance import Instance
from tiny import byte_tokenizer, tiny

from layerprune.config.schema import RuntimeConfig, num_bytes
from layerprune.errors import UserError
from layerprune.evaluate.heldout_loss import heldout_loss, heldout_losses
from layerprune.evaluate.scorer import Scorer
from layerprune.model.stack import decoder_stack
from layerprune.runtime import memory
from layerprune.shared_forward.memory_budget import MIN_TOKENS, MemoryBudget
from layerprune.shared_forward.traversal import max_buffered_states, traverse

PATHS = [tuple(at for at in range(8) if not 6 - count <= at < 7) for count in range(6)]
PAIRS = [
    Instance("loglikelihood", {}, arguments=(f"Question {at}?{'!' * at}", option), idx=0)
    for at in range(40)
    for option in (" yes", " or no")
]


@pytest.fixture
def model():
    return tiny("llama", vocab_size=259)


@pytest.fixture
def most_tokens(model):
    """The most tokens that ran through the first layer at once."""
    seen = [0]

    def note(_module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        seen[0] = max(seen[0], hidden.shape[0] * hidden.shape[1])

    decoder_stack(model).layers[0].register_forward_pre_hook(note, with_kwargs=True)
    return seen


def answers(model, memory_budget):
    return Scorer(model, byte_tokenizer(), memory_budget=memory_budget, paths=PATHS).loglikelihood(
        PAIRS
    )


def test_answers_do_not_depend_on_the_memory_budget(model, most_tokens):
    wanted = answers(model, MemoryBudget.of(model))
    assert most_tokens[0] > 64
    most_tokens[0] = 0
    for memory_budget in (
        MemoryBudget(64, 64, 300),
        MemoryBudget(64, 10**6, 10**6),
        MemoryBudget(16, 1, 1),
    ):
        found = answers(model, memory_budget)
        for (value, greedy), (other, other_greedy) in zip(found, wanted, strict=True):
            assert (value, greedy) == (pytest.approx(other, abs=1e-4), other_greedy)
    assert most_tokens[0] <= 64


def test_memory_that_is_too_little_halves_what_runs_at_once(model, capsys):
    layer = decoder_stack(model).layers[5]
    ids = torch.randint(3, 96, (12, 20), generator=torch.Generator().manual_seed(1))
    wanted, loss = answers(model, None), heldout_loss(model, ids)
    refused = []

    def refuse(_module, args, _kwargs):
        if args[0].shape[0] * args[0].shape[1] > 70:
            refused.append(args[0].shape)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = layer.register_forward_pre_hook(refuse, with_kwargs=True)
    found = answers(model, MemoryBudget(1024, 10**6, 10**6))
    memory_budget = MemoryBudget(1024, 10**6, 10**6)
    (again,) = heldout_losses(model, ids, [tuple(range(8))], memory_budget)
    hook.remove()
    assert len(refused) == 8, "1024, 512, 256, 128, and then 64 tokens at once, twice"
    assert "Out of memory" in capsys.readouterr().err
    for (value, greedy), (other, other_greedy) in zip(found, wanted, strict=True):
        assert (value, greedy) == (pytest.approx(other, abs=1e-4), other_greedy)
    assert again.nats == pytest.approx(loss.nats, abs=1e-5)
    assert len(decoder_stack(model).layers) == 8


def test_a_cpu_without_memory_says_so_in_other_words(model):
    def refuse(_module, args, _kwargs):
        if args[0].shape[1] > 100:
            torch.empty(2**60)  # bytes that no machine has

    decoder_stack(model).layers[2].register_forward_pre_hook(refuse, with_kwargs=True)
    assert len(answers(model, None)) == len(PAIRS)


def test_other_errors_and_memory_that_is_never_enough_are_passed_on(model):
    def refuse(_module, _args):
        raise RuntimeError(message)

    decoder_stack(model).layers[2].register_forward_pre_hook(refuse)
    for message in ("shapes do not fit", "DefaultCPUAllocator: can't allocate memory"):
        with pytest.raises(RuntimeError, match=message):
            answers(model, None)


@pytest.mark.parametrize("by_layers", [False, True])
def test_states_that_wait_are_counted(model, by_layers):
    if by_layers:
        model = cpu_offload(model, torch.device("cpu"))
    most, alive = [0], []

    class Counting:
        tokens = 1
        prefix = ()

        def run(self, run, before, states, last):
            state = torch.zeros(1, 1, 32)
            alive.append(weakref.ref(state))
            most[0] = max(most[0], sum(each() is not None for each in alive))
            return (state,), (state,)

        def end(self, head, path, normed):
            pass

    for paths in (PATHS, PATHS[:1], [(0, 1), (0, 2), (0, 1, 2), (0, 1, 3), (0, 1, 2, 4), (5,)]):
        alive.clear()
        most[0] = 0
        traverse(model, paths, [Counting()], MemoryBudget.of(model))
        assert most[0] <= max_buffered_states(model, paths) + 1
        assert len(paths) == 1 or most[0] >= max_buffered_states(model, paths) + (not by_layers)
    if not by_layers:
        assert max_buffered_states(model, PATHS) == 1, "blocks leave the trunk one after another"


def test_a_budget_is_kept(model):
    sizes = [MemoryBudget.of(model, budget) for budget in (1, 10**6, 10**7, 10**12)]
    assert sizes[0].tokens == MIN_TOKENS
    assert sizes == sorted(
        sizes,
        key=lambda memory_budget: (
            memory_budget.tokens,
            memory_budget.buffered_tokens,
            memory_budget.logits,
        ),
    )
    assert sizes[2].buffered_tokens * 32 * 4 <= 10**7 / 2
    assert 0 < MemoryBudget.of(model).tokens <= 1024
    assert memory.free(model.device) > 0


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used"),
    [
        ("0::/batch/job", "batch/job", "memory.max", "memory.current"),
        ("4:cpu,memory:/job", "memory/job", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_a_control_group_bounds_what_is_free(line, folder, limit, used, tmp_path, monkeypatch):
    (tmp_path / "of_process").write_text(f"9:devices:/\n{line}\n")
    group = tmp_path / "groups" / folder
    group.mkdir(parents=True)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "of_process")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    cpu = torch.device("cpu")
    assert memory.free(cpu) > 10_000_000
    (group / limit).write_text("5000000\n")
    (group / used).write_text("4000000\n")
    assert memory.free(cpu) == 1_000_000
    (group / "memory.stat").write_text("anon 5\nactive_file 1000000\ninactive_file 500000\n")
    assert memory.free(cpu) == 2_500_000, "files that are cached give way"
    (group / limit).write_text("max\n")
    assert memory.free(cpu) > 10_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500MB", 5 * 10**8), ("1.5 GiB", 3 * 2**29), ("1024", 1024), ("2kib", 2048), ("1TB", 10**12)],
)
def test_sizes(text, expected):
    assert num_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1GB", "1.5.2MB", "0", "GB"])
def test_sizes_that_are_none(text):
    with pytest.raises(UserError, match=r"runtime\.memory="):
        RuntimeConfig(memory=text)
