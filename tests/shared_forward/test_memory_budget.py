"""A pass keeps to its memory budget, and goes on with half of it if memory runs out."""

import weakref

import pytest
import torch
from accelerate import cpu_offload
from lm_eval.api.instance import Instance
from tiny import byte_tokenizer, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerprune.config.schema import RuntimeConfig, num_bytes
from layerprune.errors import UserError
from layerprune.evaluate.heldout_loss import heldout_loss, heldout_losses
from layerprune.evaluate.scorer import Scorer
from layerprune.model.stack import decoder_stack
from layerprune.runtime import memory
from layerprune.shared_forward.memory_budget import MAX_TOKENS, MIN_TOKENS, MemoryBudget
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


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that still exist."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._seen = weakref.WeakSet()

    def _free(self, size):
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._seen:
                    self._seen.add(storage)
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
                    self.peak = max(self.peak, self.live)
        return made


def long_prefix(model, budget, prefix, contexts=64):
    """The most bytes that a batch after a long prefix takes, and the rows of the largest batch."""
    tokenizer = byte_tokenizer()
    most_rows = [0]

    def note(_module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        most_rows[0] = max(most_rows[0], hidden.shape[0])

    decoder_stack(model).layers[0].register_forward_pre_hook(note, with_kwargs=True)
    scorer = Scorer(
        model, tokenizer, memory_budget=MemoryBudget.of(model, budget), max_length=prefix + 100
    )
    assert scorer._branching
    shared = [at % 259 for at in range(prefix)]
    dice = torch.Generator().manual_seed(0)
    asked = [
        (("", ""), [*shared, at % 259, *torch.randint(259, (14,), generator=dice).tolist()], [7])
        for at in range(contexts)
    ]
    with LiveBytes() as counted:
        scorer._loglikelihood_tokens(asked)
    return counted.peak, most_rows[0]


@pytest.mark.parametrize("heads", [1, 4], ids=["grouped queries", "all heads"])
def test_a_long_prefix_stays_within_the_budget(heads, monkeypatch):
    monkeypatch.setitem(MAX_TOKENS, "cpu", 16384)  # as on a GPU
    model = tiny(
        "llama", vocab_size=259, hidden_size=256, intermediate_size=688, num_attention_heads=4,
        num_key_value_heads=heads, max_position_embeddings=4096,
    )  # fmt: skip
    most_rows = []
    for budget in (2**26, 2**27, 2**28):
        peak, rows = long_prefix(model, budget, 1300, contexts=400)
        assert peak <= budget
        most_rows.append(rows)
    assert most_rows[0] <= most_rows[1] < most_rows[2]  # what fits is used


@pytest.mark.slow
def test_a_long_prefix_at_the_widths_of_7_billion(monkeypatch):
    """One layer of Llama-2-7B; each row repeats 81 MiB of keys and values beside the prefix."""
    monkeypatch.setitem(MAX_TOKENS, "cpu", 16384)
    model = tiny(
        "llama", vocab_size=259, hidden_size=4096, intermediate_size=11008, num_hidden_layers=1,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096,
    )  # fmt: skip
    budget = 4 * 2**30
    peak, rows = long_prefix(model, budget, 2600)
    assert peak <= budget
    assert 1 < rows < 64


def test_generated_sequences_fit(model):
    """Their keys and values: two tensors of 2 heads of 8 numbers in each of 8 layers."""
    per_token = 2 * 16 * 8 * 4
    for budget in (10**6, 10**7):
        fit = MemoryBudget.of(model, budget).sequences(1000)
        assert fit == max(1, min(8, fit))
        assert fit * 1000 * per_token <= budget or fit == 1
    assert MemoryBudget.of(model, 10**9).sequences(1000) == 8
    assert MemoryBudget(64, 64, 64).sequences(1000) == 8
