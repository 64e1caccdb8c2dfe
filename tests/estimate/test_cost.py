"""What a run takes: by arithmetic that can be done by hand."""

import pytest
from tiny import byte_tokenizer, tiny

from layerprune.config.compose import compose
from layerprune.estimate.cost import (
    PEAK_FLOPS,
    PREFILL,
    Cost,
    healed_cost,
    healing_flops,
    profile_cost,
    unhealed_cost,
    weight_bytes,
)
from layerprune.estimate.eval_load import eval_load
from layerprune.estimate.shape import Shape, shape_of_facts
from layerprune.estimate.table import costs, likely_paths
from layerprune.heal.recipes.linear import Linear
from layerprune.prune.target import Target
from layerprune.run.job import JobBuilder

# A layer: 100 weights, and 4 x 10 x seen for attention. The head: 8 x 50.
SHAPE = Shape(10, 100, 100, 10, 8, 50, 20)
WHOLE = tuple(range(10))
CUT = (0, 1, 2, 3, 8, 9)


def config(*overrides):
    return compose("model=llama2_7b", *overrides)


def test_distances_take_one_pass_without_the_head():
    asked = config("data.calibration_sequences=3", "data.sequence_length=5")
    cost = profile_cost(asked, SHAPE)
    assert cost.flops == {"distances": 15 * 10 * (200 + 40 * 5)}
    assert cost.hours == pytest.approx(cost.flops["distances"] / (PEAK_FLOPS * PREFILL) / 3600)


def test_what_cut_models_share_is_counted_once():
    # A task of unknown size counts nothing.
    text_alone = ("eval.tasks=[unheard]", "data.heldout_sequences=2", "data.sequence_length=5")
    paths = [WHOLE, CUT]  # they begin with four layers alike
    layer, head = 200 + 40 * 5, 2 * 400
    cost = unhealed_cost(config(*text_alone), SHAPE, paths)
    assert cost.eval_tokens == 2 * 10
    assert cost.flops["tasks and text"] == 10 * ((4 + 6 + 2) * layer + 2 * head)
    apart = healed_cost(config(*text_alone, "heal=linear"), SHAPE, paths)
    assert apart.flops["tasks and text"] == 10 * ((10 + 6) * layer + 2 * head)
    assert apart.eval_tokens == cost.eval_tokens


def test_a_streamed_model_is_read_as_often_as_memory_demands():
    asked = ("eval=mmlu", "eval.limit=1", "runtime.stream=true", "data.heldout_sequences=2",
             "data.sequence_length=5")  # fmt: skip
    # 57 questions and 57 times five few-shot examples, two states of 8 numbers in bfloat16 a token.
    tokens = 57 * (109 + 5 * 106)
    for memory, passes in (
        (2 * tokens * 2 * 8 * 2, 1),
        (2 * tokens * 2 * 8 * 2 - 1, 2),
        (10**5, 24),
    ):
        cost = unhealed_cost(config(*asked, f"runtime.memory={memory}"), SHAPE, [WHOLE, CUT])
        assert cost.stream_passes == passes, memory
        assert cost.streamed_bytes == (passes + 1) * 10 * 100 * 2, "held-out text is another pass"
        assert cost.memory == 100 * 2 + 2 * 400 * 2 + memory, "a layer, embeddings, head and states"
    assert unhealed_cost(config(*asked[:2]), SHAPE, [WHOLE, CUT]).streamed_bytes == 0
    assert profile_cost(config(*asked), SHAPE).streamed_bytes == 10 * 100 * 2


def test_below_a_streamed_seam_nothing_is_in_memory():
    seam = ("heal=seam", "runtime.memory=1000")
    whole, streamed = (
        healed_cost(config(*seam, *stream), SHAPE, [CUT]).memory
        for stream in ((), ("runtime.stream=true",))
    )
    # Of 10 layers six are left, two of them above the cut; all other things are the same.
    assert whole - streamed == 4 * 100 * 2


def test_questions_of_a_task():
    mmlu = eval_load(config("eval=mmlu").eval)
    assert mmlu.shared_tokens == 14_042 * 109 + 57 * 5 * 106  # examples once per subject
    assert mmlu.mean_length == 109 + 5 * 106
    assert eval_load(config("eval=mmlu", "eval.limit=10").eval).positions == 570
    boolq = eval_load(config("eval=boolq").eval)
    assert (boolq.positions, boolq.shared_tokens) == (3_270, 3_270 * 151)
    both = ("eval.tasks=[mmlu,boolq]", "eval.num_fewshot=5", "+eval.num_fewshot_of.boolq=0")
    assert eval_load(config(*both).eval).shared_tokens == mmlu.shared_tokens + boolq.shared_tokens
    written = eval_load(config("eval.tasks=[gsm8k]").eval)
    assert (written.shared_tokens, written.generated_tokens) == (0, 1_319 * 256)
    assert written.prompt_tokens == 1_319 * (67 + 5 * 194)
    assert eval_load(config("eval.tasks=[unheard]").eval) is None


def test_folders_of_one_name_have_shapes_of_their_own(tmp_path):
    jobs = []
    for at, layers in enumerate((4, 8)):
        folder = tmp_path / str(at) / "model"
        tiny("llama", vocab_size=259, num_hidden_layers=layers).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        asked = ("model=custom", f"model.path={folder}", "prune.layers=[1]", "heal=none")
        jobs.append(JobBuilder().build(compose(*asked, f"runtime.outputs={tmp_path}", "study=x")))
    apart = [sum(costs([job]).popitem()[1][1].flops.values()) for job in jobs]
    ((_, (count, together)),) = costs(jobs).items()
    assert count == 2
    assert sum(together.flops.values()) == pytest.approx(sum(apart))
    assert apart[1] > 1.5 * apart[0]


def test_prompts_of_what_is_written_are_as_long_beside_other_questions():
    asked = eval_load(config("eval.tasks=[gsm8k,hellaswag]").eval)
    alone = eval_load(config("eval.tasks=[gsm8k]").eval)
    assert (asked.generations, asked.positions) == (1_319, 10_042 * 100)
    both = unhealed_cost(config("eval.tasks=[gsm8k,hellaswag]"), SHAPE, [WHOLE]).flops
    one = unhealed_cost(config("eval.tasks=[gsm8k]"), SHAPE, [WHOLE]).flops
    for kind in one.keys() - {"tasks and text"}:
        assert both[kind] == one[kind]
    assert asked.prompt_tokens == alone.prompt_tokens


def test_text_that_is_written_costs_each_model_its_own_time():
    asked = config("eval.tasks=[gsm8k]")
    one = unhealed_cost(asked, SHAPE, [WHOLE])
    two = unhealed_cost(asked, SHAPE, [WHOLE, CUT])
    head = 1_319 * 256 * 2 * 400
    layers = one.flops["generation"] - head
    assert two.flops["generation"] - 2 * head == pytest.approx(1.6 * layers)
    assert two.hours > 1.5 * one.hours


RECIPES = {
    "lora": 2 * (6 * 400 + 800),
    "qlora": 2 * (6 * 400 + 800) + 6 * 400,
    "full": 3 * (6 * 400 + 800),
    "tail": 6 * 400 + 800 + 2 * (3 * 400 + 800),
    "distill": 2 * (6 * 400 + 800) + 10 * 400 + 800,
    "elastic": 2 * (7 * 400 + 800),  # of 10 layers, up to 6 are removed
    "seam": 10 * 400 + 3 * 2 * 400 + 0.25 * 2 * 800,
}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_operations_of_a_token_of_healing(recipe):
    steps = ("heal.steps=1", "heal.batch_size=8", "heal.sequence_length=5")
    heal = config(f"heal={recipe}", *steps).heal
    tokens, flops = healing_flops(heal, SHAPE, CUT)
    assert tokens == 40
    assert flops == 40 * RECIPES[recipe]  # two layers are left above the cut: `seam` trains both


def test_one_training_of_all_cuts_is_counted_once():
    asked = config("heal=elastic", "heal.steps=20", "heal.bands=1")
    one, two = (healed_cost(asked, SHAPE, paths) for paths in ([CUT], [WHOLE, CUT]))
    assert one.flops["healing"] == two.flops["healing"]
    assert one.healing_tokens == two.healing_tokens == 20 * 8 * 128
    bands = config("heal=elastic", "heal.steps=20", "heal.bands=3")
    assert healed_cost(bands, SHAPE, [CUT]).healing_tokens == 3 * one.healing_tokens
    shared = unhealed_cost(asked, SHAPE, [WHOLE, CUT])
    assert two.flops["tasks and text"] == shared.flops["tasks and text"]


def test_a_map_is_fitted_to_one_pass_of_the_whole_model():
    heal = Linear(sequences=4, sequence_length=5)
    assert healing_flops(heal, SHAPE, CUT) == (20, 20 * 10 * 400)


def test_the_papers_recipe_on_its_smallest_llama():
    """164 M tokens, three passes of 6.5 G weights and a head: some 6 x 10^18 operations."""
    asked = config("heal=qlora", "eval=mmlu")
    shape = shape_of_facts(asked.model.shape)
    cost = healed_cost(asked, shape, [tuple(range(32))])
    assert cost.healing_tokens == 163_840_000
    assert cost.flops["healing"] == pytest.approx(163_840_000 * 6 * 6.6e9, rel=0.2)
    assert 4e9 < weight_bytes(shape, 32, asked.model.dtype, None) - 9e9 < 5e9
    assert 10 < cost.hours < 50
    assert cost.memory < 40e9


def test_costs_add_up():
    together = Cost()
    for memory in (3, 7, 5):
        together.add(Cost(1, 2, {"a": 4}, 5, memory))
    assert together == Cost(3, 6, {"a": 12}, 15, 7)


@pytest.mark.parametrize(
    ("model", "strategy", "kept"),
    [
        ("llama2_7b", "block", (*range(22), *range(28, 32))),  # the authors' l*(6) is 22
        ("qwen_7b", "block", (*range(25), 31)),
        ("llama2_7b", "deepest", (*range(25), 31)),
    ],
)
def test_blocks_are_the_authors_where_they_are_known(model, strategy, kept):
    prune = compose(f"prune={strategy}").prune
    targets = [Target(0, 0), Target(0.2, 6)]
    whole, cut = likely_paths(model, prune, targets, 32, seed=0)
    assert whole == tuple(range(32))
    assert cut == kept


def test_single_layers_are_taken_to_be_anywhere():
    (cut,) = likely_paths("any", compose("prune=scattered").prune, [Target(0.5, 16)], 32, seed=0)
    assert len(cut) == 16
    assert cut != tuple(range(16))
