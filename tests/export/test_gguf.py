"""An exported GGUF file is the dense model's without some layers, for both engines."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
import torch
from gguf import GGMLQuantizationType, GGUFWriter

from layerprune.config.compose import compose
from layerprune.config.schema import ExportConfig, GGUFType, ModelConfig
from layerprune.errors import UserError
from layerprune.export import gguf_check, verification
from layerprune.export.gguf import (
    PATTERN,
    cut_fields,
    open_gguf,
    renamed,
    sliding_layers,
    write_cut,
)
from layerprune.export.reopen_gguf import reopen_gguf
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.run.pipeline import run

LAYERS = 8
HEALED = (
    "heal.steps=3", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.warmup_steps=1",
    "heal.learning_rate=1e-2", "heal.sequence_length=32",
)  # fmt: skip


@pytest.fixture(autouse=True)
def opened_here(request, monkeypatch):
    """Transformers opens files in this process, which is faster, unless a test is about that."""
    if "fresh" not in request.node.nodeid:
        here = lambda file, settings: reopen_gguf(str(file), settings)  # noqa: E731
        monkeypatch.setattr(verification, "gguf_reopened_elsewhere", here)


@pytest.fixture
def without_llama_cpp(monkeypatch):
    monkeypatch.setattr(gguf_check, "LLAMA_CPP", "no_such_package")


def settings(file, tasks, tmp_path, *overrides):
    return compose(
        "model=custom", f"model.path={file}", "eval.tasks=[letters]", f"eval.include_path={tasks}",
        "eval.trust_task_code=true", f"runtime.outputs={tmp_path / 'outputs'}", "tracker=disabled",
        "data.sequence_length=32", "data.calibration_sequences=8", "data.heldout_sequences=4",
        "export=gguf", *overrides,
    )  # fmt: skip


def exported(config):
    """The reader of the one exported file, and its manifest."""
    (point,) = run(config)
    folder = Path(config.runtime.outputs) / config.study / "points" / point.key / "model"
    manifest = json.loads((folder / "layerprune.json").read_text())
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "layerprune.json", manifest["gguf"]["file"],
    }  # fmt: skip
    return open_gguf(folder / manifest["gguf"]["file"]), manifest


def left(tmp_path):
    return list(tmp_path.glob("outputs/*/points/*/*model*"))


def bytes_of(reader):
    return {
        tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for tensor in reader.tensors
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("removed", [[], [0], [7], [2, 3, 6]])
def test_remaining_tensors_keep_their_bytes(tmp_path, kind, removed):
    dense = open_gguf(tiny_gguf.write(tmp_path / "dense.gguf", kind=kind))
    write_cut(dense, removed, "Less", tmp_path / "cut.gguf", {})
    cut, kept = open_gguf(tmp_path / "cut.gguf"), [n for n in range(LAYERS) if n not in removed]
    expected = {renamed(name, kept): content for name, content in bytes_of(dense).items()}
    expected.pop(None, None)
    assert bytes_of(cut) == expected
    assert [tensor.shape.tolist() for tensor in cut.tensors] == [
        tensor.shape.tolist() for tensor in dense.tensors if renamed(tensor.name, kept)
    ]
    changed = {
        name
        for name in {*cut.fields, *dense.fields}
        if cut.fields[name].contents() != dense.fields[name].contents()
        or cut.fields[name].types != dense.fields[name].types
    }
    counts = {"llama.block_count", "GGUF.tensor_count"} if removed else set()
    assert changed == {"general.name", *counts}
    assert cut.fields["llama.block_count"].contents() == len(kept)
    assert cut.fields["general.name"].contents() == "Less"


def test_lists_with_an_entry_per_layer_are_cut_and_others_are_not(tmp_path):
    fields = [
        ("llama.attention.head_count_kv", [*range(8)]),
        ("llama.swiglu_clamp_exp", [layer / 2 for layer in range(8)]),
        ("llama.rope.dimension_sections", [8] * 8),
        ("llama.some.list", [*range(7)]),
        ("other.list", [*range(8)]),
    ]
    dense = open_gguf(tiny_gguf.write(tmp_path / "dense.gguf", fields=fields))
    write_cut(dense, [1, 2], "Less", tmp_path / "cut.gguf", {})
    cut = open_gguf(tmp_path / "cut.gguf")
    contents = {name: cut.fields[name].contents() for name, _ in fields}
    assert contents == dict(fields) | {
        "llama.attention.head_count_kv": [0, 3, 4, 5, 6, 7],
        "llama.swiglu_clamp_exp": [0.0, 1.5, 2.0, 2.5, 3.0, 3.5],
    }


@pytest.mark.parametrize(
    ("given", "kept", "expected"),
    [
        (None, range(6), None),  # the period of llama.cpp itself
        (None, [0, 1, 2, 3, 4], None),
        (None, [0, 1, 2, 3, 5], 5),
        (None, [5, 6, 7], [False, True, True]),
        (None, [5, 11], 1),
        (3, [0, 1, 2, 3], 3),
        (3, [2, 4, 5], [False, True, False]),
        ([True, False] * 6, [0, 1, 3, 5], [True, False, False, False]),
    ],
)
def test_the_pattern_of_windows_is_written_where_llama_cpp_has_another(
    tmp_path, given, kept, expected
):
    key = f"gemma3.{PATTERN}"
    fields = [] if given is None else [(key, given)]
    file = tiny_gguf.write(tmp_path / "dense.gguf", "gemma3", layers=12, fields=fields)
    dense = open_gguf(file)
    field = cut_fields(dense, list(kept), "Less").get(key)
    assert (field and field.value) == expected
    before = sliding_layers(dense)
    write_cut(dense, [n for n in range(12) if n not in kept], "Less", tmp_path / "cut.gguf", {})
    after = sliding_layers(open_gguf(tmp_path / "cut.gguf"))
    assert after == [before[layer] for layer in kept]


@pytest.mark.parametrize(
    ("architecture", "kind", "removed"),
    [("llama", "F32", [3, 4]), ("llama", "Q4_0", [0, 7]), ("qwen2", "Q8_0", [1]),
     ("gemma3", "Q8_0", [2, 4])],
)  # fmt: skip
def test_the_file_is_the_measured_model(tiny_tasks, tmp_path, architecture, kind, removed):
    file = tiny_gguf.write(tmp_path / "dense.gguf", architecture, kind=kind)
    layers = f"prune.layers={removed}".replace(" ", "")
    cut, manifest = exported(settings(file, tiny_tasks, tmp_path, layers))
    check = manifest["gguf"]["check"]
    assert check["logits"] == check["quantization"] == 0
    assert check["layers_by_config"] == (architecture == "gemma3")
    assert check["llama_cpp"]["logprob_difference"] < 0.05
    assert check["llama_cpp"]["same_tokens"] >= 0.8 * check["llama_cpp"]["prefixes"] > 5
    assert manifest["gguf"]["quantized"] == {}
    name = f"dense without {len(removed)} layers"
    assert cut.fields["general.name"].contents() == name
    loaded = load(locate(ModelConfig(path=str(file)), tmp_path / "again"), None, "cpu")
    drop_layers(loaded.model, removed)
    loaded.model.config.save_pretrained(tmp_path / "config")
    ids = [*range(3, 43)]
    arguments = {"ids": ids, "dtype": "float32", "config": str(tmp_path / "config")}
    with torch.no_grad():
        expected = loaded.model(torch.tensor([ids])).logits
    path = next(tmp_path.glob("outputs/*/points/*/model/*.gguf"))
    torch.testing.assert_close(reopen_gguf(str(path), arguments)["logits"], expected)


@pytest.mark.usefixtures("without_llama_cpp")
@pytest.mark.parametrize(
    ("architecture", "kind", "recipe", "options", "types"),
    [
        ("llama", "F32", "lora", ["heal.rank=2"], {"F32"}),
        ("llama", "Q5_1", "full", [], {"Q5_1", "F32"}),
        ("llama", "Q4_0", "lora", ["heal.rank=2", "export.gguf_type=q8_0"], {"Q8_0"}),
        ("gemma3", "Q8_0", "full", [], {"Q8_0", "F32"}),
        ("qwen2", "Q8_0", "full", ["export.gguf_type=f16"], {"F16", "F32"}),
    ],
)
def test_healed_tensors_are_quantised_again(
    tiny_tasks, tmp_path, architecture, kind, recipe, options, types
):
    file = tiny_gguf.write(tmp_path / "dense.gguf", architecture, kind=kind)
    config = settings(
        file, tiny_tasks, tmp_path, "prune.layers=[3,4]", f"heal={recipe}", *HEALED, *options
    )
    cut, manifest = exported(config)
    quantized, check = manifest["gguf"]["quantized"], manifest["gguf"]["check"]
    assert set(quantized.values()) == types
    assert check["logits"] < 1e-5
    assert (check["quantization"] < 1e-5) == (kind == "F32")
    assert check["quantization"] < 0.2
    dense, now = bytes_of(open_gguf(file)), bytes_of(cut)
    kept = [n for n in range(LAYERS) if n not in (3, 4)]
    for name, content in dense.items():
        if renamed(name, kept) is not None:
            assert (now[renamed(name, kept)] == content) == (name not in quantized)


@pytest.mark.usefixtures("without_llama_cpp")
def test_k_quants_become_8_bits_and_a_line_says_so(tiny_tasks, tmp_path, capsys, monkeypatch):
    # The gguf package writes no K-quants, so the file has another type that it cannot write.
    monkeypatch.setattr(
        "layerprune.export.gguf_weights.WRITABLE",
        [kind for kind in GGMLQuantizationType if kind.name != "Q4_1"],
    )
    file = tiny_gguf.write(tmp_path / "dense.gguf", kind="Q4_1")
    config = settings(
        file, tiny_tasks, tmp_path, "prune.layers=[3]", "heal=lora", "heal.rank=2", *HEALED
    )
    _, manifest = exported(config)
    assert set(manifest["gguf"]["quantized"].values()) == {"Q8_0"}
    said = "".join(capsys.readouterr())
    assert "cannot write Q4_1, so healed tensors of that type are Q8_0" in said
    card = next(tmp_path.glob("outputs/*/points/*/model/README.md")).read_text()
    assert "It was not checked in llama.cpp" in card


@pytest.mark.usefixtures("without_llama_cpp")
def test_a_model_from_other_files_is_cut_in_the_file_that_one_names(tiny_tasks, tmp_path):
    file = tiny_gguf.write(tmp_path / "dense.gguf", kind="Q4_0")
    folder = locate(ModelConfig(path=str(file)), tmp_path / "cache").folder
    moved = shutil.copytree(folder, tmp_path / "original")
    with pytest.raises(UserError, match=r"Name the dense model's by export\.gguf_from=FILE"):
        run(settings(moved, tiny_tasks, tmp_path, "prune.layers=[3]"))
    named = settings(moved, tiny_tasks, tmp_path, "prune.layers=[3]", f"export.gguf_from={file}")
    _, manifest = exported(named)
    assert manifest["gguf"]["check"]["logits"] < 1e-5
    other = tiny_gguf.tensors()
    other["blk.5.attn_q.weight"] = other["blk.6.attn_q.weight"]
    wrong = tiny_gguf.write(tmp_path / "wrong.gguf", kind="Q4_0", content=other)
    with pytest.raises(UserError, match=r"blk\.5\.attn_q\.weight in the GGUF file is not"):
        run(settings(moved, tiny_tasks, tmp_path, "study=b", "prune.layers=[3]",
                     f"export.gguf_from={wrong}"))  # fmt: skip
    assert not list(tmp_path.glob("outputs/b/points/*/*model*"))


def test_healing_that_quantisation_undoes_is_refused(tiny_tasks, tmp_path):
    file = tiny_gguf.write(tmp_path / "dense.gguf", kind="Q4_0")
    config = settings(file, tiny_tasks, tmp_path, "prune.layers=[3,4]", "heal=full", *HEALED)
    with pytest.raises(
        UserError, match=r"in the types of the GGUF file, .* export\.gguf_type=q8_0"
    ):
        run(config)
    assert not left(tmp_path)


def fields_of(architecture, **values):
    def make(path):
        fields = [(name.replace("__", "."), value) for name, value in values.items()]
        return tiny_gguf.write(path, architecture, fields=fields)

    return make


def unknown(path):
    writer = GGUFWriter(path, "of-tomorrow")
    writer.add_tensor("some.weight", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unknown, "is a of-tomorrow, and we have not checked"),
        (fields_of("llama", split__count=2), "one of 2 files of a split model"),
        (fields_of("llama", llama__interleave_moe_layer_step=2), "interleave_moe_layer_step ties"),
        (lambda path: path, "there is no such file"),
        (lambda path: path.write_bytes(b"GGUF no") and path, "cannot be read"),
        (lambda path: tiny_gguf.write(path, layers=6), "has 6 layers, and dense has 8"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(tiny_tasks, tmp_path, make, reason):
    dense = tiny_gguf.write(tmp_path / "dense.gguf")
    other = make(tmp_path / "other.gguf")
    config = settings(
        dense, tiny_tasks, tmp_path, "prune.layers=[3]", f"export.gguf_from={other}",
        "model.name=dense",
    )  # fmt: skip
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        run(config)
    assert "\n" not in str(error.value)
    assert not left(tmp_path)


def test_the_attention_scale_that_llama_cpp_knows_by_the_number_of_layers(tmp_path):
    file = tiny_gguf.write(tmp_path / "dense.gguf", "gemma3", layers=62)
    with pytest.raises(UserError, match="knows the attention scale of this gemma3 by its 62"):
        cut_fields(open_gguf(file), range(61), "Less")
    assert cut_fields(open_gguf(file), range(62), "All")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["export.dtype=bfloat16"], "no effect with export=gguf"),
        (["fit.keep=0.9"], "use export=hf, and then export=gguf"),
        (["runtime.stream=true"], "remove runtime.stream"),
        (["export=hf", "export.gguf_type=q8_0"], "add export=gguf"),
    ],
)
def test_options_that_do_not_go_together(overrides, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        compose("export=gguf", *overrides)


@pytest.mark.parametrize("engine", ["transformers", "llama.cpp"])
def test_a_file_of_another_model_leaves_nothing(tiny_tasks, tmp_path, monkeypatch, engine):
    file = tiny_gguf.write(tmp_path / "dense.gguf")
    if engine == "transformers":
        names = {1: 2, 2: 1}

        def swapped(name, kept):
            new = renamed(name, kept)
            block = re.fullmatch(r"blk\.(\d+)(\..+)", new or "")
            return f"blk.{names.get(int(block[1]), block[1])}{block[2]}" if block else new

        monkeypatch.setattr("layerprune.export.gguf.renamed", swapped)
    else:
        file = tiny_gguf.write(tmp_path / "dense.gguf", "gemma3")
        monkeypatch.setattr("layerprune.export.gguf._pattern", lambda *_: None)
    words = {"transformers": "opened by transformers", "llama.cpp": "computes another model"}
    with pytest.raises(UserError, match=words[engine]) as error:
        run(settings(file, tiny_tasks, tmp_path, "prune.layers=[3,4]"))
    assert "use export=hf" in str(error.value)
    assert not left(tmp_path)


def test_a_file_that_llama_cpp_refuses_leaves_nothing(tiny_tasks, tmp_path, monkeypatch):
    real = cut_fields

    def wrong(*arguments):
        fields = real(*arguments)
        del fields["llama.context_length"]
        return fields

    monkeypatch.setattr("layerprune.export.gguf.cut_fields", wrong)
    file = tiny_gguf.write(tmp_path / "dense.gguf")
    with pytest.raises(UserError, match=r"llama\.cpp cannot open the file: .*context_length"):
        run(settings(file, tiny_tasks, tmp_path, "prune.layers=[3]"))
    assert not left(tmp_path)


KILLED = """
import os, signal, sys
from layerprune.cli import main
from layerprune.export import gguf_export
gguf_export.verify_gguf = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


@pytest.mark.usefixtures("without_llama_cpp")
def test_a_killed_export_leaves_nothing_that_looks_finished(tiny_tasks, tmp_path):
    file = tiny_gguf.write(tmp_path / "dense.gguf")
    config = settings(file, tiny_tasks, tmp_path, "prune.layers=[3]")
    run(settings(file, tiny_tasks, tmp_path, "prune.layers=[3]", "export=none"))
    arguments = [
        "model=custom", f"model.path={file}", "eval.tasks=[letters]",
        f"eval.include_path={tiny_tasks}", "eval.trust_task_code=true",
        f"runtime.outputs={tmp_path / 'outputs'}", "tracker=disabled", "data.sequence_length=32",
        "data.calibration_sequences=8", "data.heldout_sequences=4", "export=gguf",
        "prune.layers=[3]",
    ]  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, env={**os.environ}
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    (unfinished,) = tmp_path.glob("outputs/*/points/*/.model-unfinished-*")
    assert next(unfinished.glob("*.gguf"))
    assert not list(tmp_path.glob("outputs/*/points/*/model"))
    exported(config)
    assert not list(tmp_path.glob("outputs/*/points/*/.model-unfinished-*"))


def test_records_and_manifests_of_other_exports_do_not_name_its_options():
    from layerprune.export.checkpoint import form_facts
    from layerprune.record.identity import recorded_config

    assert form_facts(ExportConfig(format="hf")) == {
        "format": "hf", "dtype": None, "quantization": None,
    }  # fmt: skip
    assert recorded_config(compose())["export"] == {
        "format": "none", "dtype": None, "quantization": None,
    }  # fmt: skip
    form = ExportConfig(format="gguf", gguf_type=GGUFType.q8_0)
    assert form_facts(form)["gguf_type"] == "q8_0"


@pytest.mark.slow
def test_a_fresh_process_opens_the_bundled_model_without_five_layers(tmp_path):
    """Greedy text and answers of both engines, each on its own copy of the weights."""
    config = compose(
        "prune.layers=[20,21,22,23,24]", "export=gguf", "tracker=disabled", "eval.limit=2",
        f"runtime.outputs={tmp_path / 'outputs'}",
    )  # fmt: skip
    cut, manifest = exported(config)
    check = manifest["gguf"]["check"]
    assert check["logits"] < 1e-3
    assert check["llama_cpp"]["same_tokens"] >= 12
    assert check["llama_cpp"]["logprob_difference"] < 0.3
    source = locate(config.model, tmp_path / "outputs" / "cache")
    dense = bytes_of(open_gguf(source.gguf))
    kept = [n for n in range(30) if n not in range(20, 25)]
    expected = {renamed(name, kept): content for name, content in dense.items()}
    expected.pop(None)
    assert bytes_of(cut) == expected

    loaded = load(source, config.model.dtype, "cpu")
    drop_layers(loaded.model, [20, 21, 22, 23, 24])
    file = next(tmp_path.glob("outputs/*/points/*/model/*.gguf"))
    same = [
        first == second
        for prompt in gguf_check.PREFIXES[:8]
        for first, second in zip(
            written_by_transformers(loaded, prompt), written_by_llama_cpp(file, prompt), strict=True
        )
    ]
    assert sum(same) >= 0.6 * len(same)


LENGTH = 8
"""Tokens that are written: rounding changes one sooner or later, and then all that follow."""


def written_by_transformers(loaded, prompt):
    ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        written = loaded.model.generate(
            ids, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False
        )
    return written[0, ids.shape[1] :].tolist()


def written_by_llama_cpp(file, prompt):
    llama = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (xllamacpp)")
    params = llama.CommonParams()
    params.model.path = str(file)
    params.n_ctx = 256
    params.cpuparams.n_threads = 1
    answer = llama.Server(params).handle_completions(
        {"prompt": prompt, "max_tokens": LENGTH, "temperature": 0, "ignore_eos": True, "n_probs": 1}
    )
    return [token["id"] for token in answer["choices"][0]["logprobs"]["content"]]
