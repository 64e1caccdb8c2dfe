"""A whole search on a tiny model that knows something: points, stops, conflicts, checkpoint."""

import json
import sys
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny

import layerprune
from layerprune import cli
from layerprune.config.compose import compose
from layerprune.config.schema import ExportConfig
from layerprune.errors import UserError
from layerprune.record.store import Store
from layerprune.report.tables.search_result import read_search
from layerprune.run import pipeline
from layerprune.search.bayesian_search import max_healings
from layerprune.search.budget import size_of_folder
from layerprune.search.fit import planned_jobs, run
from layerprune.search.result import RESULT_FILE

LAYERS = 6
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory):
    """A tiny model that has learned which letter follows another, and the questions of that."""
    folder = tmp_path_factory.mktemp("alphabet")
    tokenizer = byte_tokenizer()
    model = tiny("llama", vocab_size=259, num_hidden_layers=LAYERS, max_position_embeddings=512)
    pairs = [f"{a}>{b}" for a, b in pairwise(LETTERS)]
    ids = torch.tensor(tokenizer(pairs)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    tasks = folder / "tasks"
    tasks.mkdir()
    rows = [
        {
            "question": f"{a}>",
            "choices": [(LETTERS * 2)[at + 9], b, (LETTERS * 2)[at + 17]],
            "answer": 1,
        }
        for at, (a, b) in enumerate(pairwise(LETTERS))
    ]
    (tasks / "quiz.jsonl").write_text("\n".join(map(json.dumps, rows * 4)))
    (tasks / "quiz.yaml").write_text(
        "task: quiz\n"
        "dataset_path: json\n"
        "dataset_kwargs:\n"
        f"  data_files: {{test: {tasks}/quiz.jsonl}}\n"
        "output_type: multiple_choice\n"
        "test_split: test\n"
        'doc_to_text: "{{question}}"\n'
        "doc_to_choice: choices\n"
        "doc_to_target: answer\n"
        'target_delimiter: ""\n'
        "metric_list: [{metric: acc}]\n"
    )
    lines = [" ".join(pairs[at % 25 :] + pairs[: at % 25]) + f" {at}" for at in range(99)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    return folder


@pytest.fixture
def settings(alphabet, tmp_path):
    def make(*overrides):
        return (
            "model=custom", f"model.path={alphabet / 'model'}", "eval.tasks=[quiz]",
            f"eval.include_path={alphabet / 'tasks'}",
            "eval.trust_task_code=true", f"data.files=[{alphabet / 'text.txt'}]",
            "data.sequence_length=32", "data.calibration_sequences=4", "data.heldout_sequences=2",
            "heal=full", "heal.steps=4", "heal.batch_size=4", "heal.warmup_steps=1",
            "heal.learning_rate=3e-3", "heal.sequence_length=32",
            f"runtime.outputs={tmp_path}", "study=fit", "tracker=disabled", *overrides,
        )  # fmt: skip

    return make


def healed(tmp_path):
    """Numbers of layers of the points that were healed."""
    points = Store(tmp_path / "fit").points()[0]
    assert None not in points
    return sorted(each.num_dropped for each in points if each.healing)


@pytest.mark.slow
def test_a_search_leaves_ordinary_points_and_a_checkpoint_that_answers_alike(settings, tmp_path):
    fitted = run(compose(*settings("fit.keep=0.8", "export=hf")))
    assert fitted.kept.share >= 0.75
    assert sorted(fitted.candidates) == healed(tmp_path)
    assert len(fitted.candidates) <= max_healings(LAYERS)
    assert fitted.same[0] == fitted.same[1] >= 40
    assert fitted.folder == tmp_path / "fit" / "points" / fitted.point.key / "model"
    card = (fitted.folder / "README.md").read_text()
    assert f"keeps {100 * fitted.kept.share:.1f} %" in card
    assert any("over chance (fit.keep=0.8)." in line for line in fitted.lines())
    found = json.loads((tmp_path / "fit" / RESULT_FILE).read_text())
    assert found["point"] == fitted.point.key
    assert found["dropped"] == list(fitted.dropped)
    assert [step.dropped for step in fitted.steps][: len(fitted.dropped) + 1] == list(
        range(len(fitted.dropped) + 1)
    )
    assert fitted.samples
    assert all(sample.dense and sample.chosen for sample in fitted.samples)
    fit = read_search(tmp_path / "fit")
    steps, samples = fit.tables  # it has no subjects
    assert [row[0] for row in steps.rows if row[-1] == "chosen"] == [str(len(fitted.dropped))]
    assert [row[0] for row in samples.rows] == [sample.prompt for sample in fitted.samples]
    ringed = {(row["kept"], row["layers_dropped"]) for row in fit.frontier if row.get("chosen")}
    assert ringed == {(fitted.kept.share, len(fitted.dropped))}


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on_and_finds_the_same(settings, tmp_path, monkeypatch):
    whole = run(compose(*settings("fit.keep=0.9", "study=whole")))
    assert whole.candidates, "nothing was healed: nothing could be stopped"
    healed_points, heal, most = [], pipeline._heal, 0

    def stop(point, heldout_ST):
        if len(healed_points) == most:
            raise KeyboardInterrupt
        healed_points.append(point)
        return heal(point, heldout_ST)

    monkeypatch.setattr(pipeline, "_heal", stop)
    config = compose(*settings("fit.keep=0.9"))
    for _ in whole.candidates:  # before the first, then after one more each time
        healed_points.clear()
        with pytest.raises(KeyboardInterrupt):
            run(config)
        most = 1
    healed_points.clear()
    again = run(config)
    assert again.candidates == whole.candidates
    assert again.dropped == whole.dropped
    assert [score.correct for score in again.point.scores] == [
        score.correct for score in whole.point.scores
    ]


def test_one_training_gives_a_search_all_of_its_candidates(settings, tmp_path):
    overrides = settings("heal=elastic", "heal.max_fraction=0.7", "heal.rank=4", "heal.steps=4",
                         "heal.learning_rate=1e-2", "fit.keep=0.9", "export=hf")  # fmt: skip
    result = run(compose(*overrides))
    assert result.candidates == (1, 2, 3, 4)  # seven tenths of six layers
    assert healed(tmp_path) == [1, 2, 3, 4]
    assert len(list((tmp_path / "cache/elastic").iterdir())) == 2  # bands
    assert "Healed 4 of at most 4 candidates" in "\n".join(result.lines())
    _, planned = planned_jobs(compose(*overrides))
    assert [target.count for target in planned.requested] == [1, 2, 3, 4]


def test_memory_alone_trains_what_its_candidate_needs(settings, tmp_path):
    small = settings("heal=elastic", "heal.max_fraction=0.7", "heal.rank=4", "heal.steps=4")
    _, dense = run(compose(*small, "fit.memory=1GiB")).memory
    result = run(compose(*small, f"fit.memory={int(dense * 0.85)}"))
    assert result.candidates == (len(result.dropped),) == (2,)
    assert healed(tmp_path) == [2]
    assert len(list((tmp_path / "cache/elastic").iterdir())) == 1
    _, planned = planned_jobs(compose(*small, f"fit.memory={int(dense * 0.85)}"))
    assert len(planned.requested) == 1


def test_memory_and_speed_alone_heal_one_candidate(settings, tmp_path):
    whole = run(compose(*settings("fit.memory=1GiB")))
    assert (whole.dropped, whole.healed, whole.candidates) == ((), False, ())
    now, before = whole.memory
    fitted = run(compose(*settings(f"fit.memory={int(before * 0.7)}", "fit.speedup=1.2")))
    assert fitted.memory[0] <= before * 0.7
    assert fitted.speedup >= 1.2
    assert fitted.candidates == (len(fitted.dropped),)
    assert healed(tmp_path) == [len(fitted.dropped)]
    assert now == before


def test_sequences_that_cannot_be_healed_on_are_refused_before_any_work(settings, tmp_path):
    asked = [each for each in settings("fit.keep=0.8") if not each.startswith("heal.sequence")]
    with pytest.raises(UserError, match=r"^heal\.sequence_length=9999: "):
        run(compose(*asked, "heal.sequence_length=9999"))
    assert not (tmp_path / "fit" / "points").exists()


def test_what_full_healing_changed_is_there_to_be_exported(settings):
    dense = run(compose(*settings("fit.memory=1GiB"))).memory[0]
    fitted = run(compose(*settings(f"fit.memory={int(dense * 0.7)}", "export=hf")))
    assert fitted.healed
    assert fitted.same[0] == fitted.same[1]
    weights = load_file(fitted.folder / "model.safetensors")
    kept = load_file(fitted.folder.parent / "weights" / "weights.safetensors")
    assert kept
    assert all(torch.equal(weights[name], kept[name]) for name in kept)


def test_budgets_that_exclude_each_other_are_named_with_what_is_near(settings, alphabet, tmp_path):
    size = size_of_folder(alphabet / "model", ExportConfig(format="hf"))
    memory = f"fit.memory={int(size.bytes_by_dropped[LAYERS - 1]) + 1}"
    config = compose(*settings("fit.keep=1", memory))
    with pytest.raises(UserError) as caught:
        run(config)
    said = str(caught.value)
    assert "\n" not in said
    assert f"fit.keep=1.0 with {memory}" in said
    assert "Use fit.keep=0." in said
    assert len(healed(tmp_path)) == 1, "that it cannot be was known after the first"


def test_without_healing_the_largest_cut_that_keeps_enough_is_taken(settings, tmp_path):
    base = [each for each in settings("fit.keep=0.5") if not each.startswith("heal")]
    fitted = run(compose(*base))
    points = {point.num_dropped: point for point in Store(tmp_path / "fit").points()[0]}
    assert len(points) == LAYERS
    over = {n: each.scores[0].measures["acc"].value - 1 / 3 for n, each in points.items()}
    assert len(fitted.dropped) == max(n for n in over if over[n] >= 0.5 * over[0])
    assert not fitted.candidates


def test_without_healing_a_near_miss_is_no_answer(settings, alphabet, tmp_path):
    base = [each for each in settings("study=near") if not each.startswith("heal")]
    run(compose(*base, "fit.keep=0.5"))
    points = {point.num_dropped: point for point in Store(tmp_path / "near").points()[0]}
    over = {n: each.scores[0].measures["acc"].value - 1 / 3 for n, each in points.items()}
    count = max(n for n in over if 0.05 < over[n] / over[0] < 0.98)
    keep = over[count] / over[0] + 0.01
    size = size_of_folder(alphabet / "model", ExportConfig(format="hf")).bytes_by_dropped[count]
    with pytest.raises(UserError, match=rf"requires removing {count} layers? of {LAYERS}"):
        run(compose(*base, f"fit.keep={keep}", f"fit.memory={size}"))


def test_the_command_line_looks_for_a_model_and_shows_its_points(
    settings, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py", *settings("fit.memory=1GiB")])
    cli.main()
    assert "chosen: 0 of 6 layers removed." in capsys.readouterr().err
    assert (tmp_path / "fit" / "report.html").is_file()
    monkeypatch.setattr(sys, "argv", ["main.py", "-m", *settings("fit.keep=0.8", "seed=0,1")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "remove -m" in capsys.readouterr().err


def test_what_a_search_may_make_is_planned(settings):
    curve, candidates = planned_jobs(compose(*settings("fit.keep=0.8")))
    assert len(curve.targets) == LAYERS
    assert len(candidates.targets) == max_healings(LAYERS)


def test_from_python_it_is_one_call(settings):
    fitted = layerprune.fit(*settings(), memory="1GiB")
    assert fitted.dropped == ()
    with pytest.raises(UserError, match="without a budget"):
        layerprune.fit(*settings())


def test_points_are_the_same_whoever_asks_for_them(settings):
    fitted = run(compose(*settings("fit.memory=1GiB")))
    unhealed = [each for each in settings("prune.fraction=0") if not each.startswith("heal")]
    (point,) = pipeline.run(compose(*unhealed))
    assert point.key == fitted.point.key
