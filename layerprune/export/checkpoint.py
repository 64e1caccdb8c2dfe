"""Export the model of a point: a checkpoint for transformers, or a GGUF file for llama.cpp."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from layerprune.config.schema import ExportConfig
from layerprune.errors import UserError, explained
from layerprune.export.card import card
from layerprune.export.gguf import dense_gguf
from layerprune.export.gguf_export import GGUFExport, write_gguf
from layerprune.export.verification import measured_model, verify_logits
from layerprune.model.config_files import untie, write_config
from layerprune.model.load import load_tokenizer
from layerprune.model.shards import copy_without_layers
from layerprune.model.source import Source
from layerprune.model.weight_files import weights_dtype
from layerprune.record.identity import plain
from layerprune.record.point import Point
from layerprune.runtime.atomic_files import replacing_folder, write_json

MODEL = "model"
"""Folder of a point with its checkpoint."""

ABOUT = "layerprune.json"
"""File in `MODEL` that names the point and the form of the weights."""

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model",
    "*.jinja", "*.tiktoken", "*processor_config.json",
)  # fmt: skip

LOCAL_FIELDS = {"auto_map", "is_local", "local_files_only", "name_or_path"}
"""Fields of `tokenizer_config.json` that hold for the source's folder alone."""

HF = ExportConfig(format="hf")

SHARD = 5 * 10**9
"""Bytes of the largest file: larger ones are slow to copy, and are read as one."""


def checkpoint_folder(folder: Path, form: ExportConfig) -> Path:
    """Return the folder of a checkpoint, for the point in `folder`."""
    return folder / MODEL if form.path is None else Path(form.path).expanduser()


def exported(checkpoint: Path) -> tuple[Any, Any, Any]:
    """Return the point's key, the form and the note of a checkpoint; None each without one."""
    try:
        content = json.loads((checkpoint / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        content = {}
    return content.get("key"), content.get("export"), content.get("said")


def form_facts(form: ExportConfig) -> dict[str, Any]:
    """Return the form of a checkpoint as it states it, wherever it lies."""
    facts: dict[str, Any] = plain(dataclasses.asdict(form))
    del facts["path"]
    if form.format != "gguf":
        del facts["gguf_from"], facts["gguf_type"]
    return facts


def refuse_export(source: Source, form: ExportConfig, healed: bool) -> None:
    """Raise `UserError` for files that cannot be copied without some layers."""
    method = source.quantized_by
    if form.format == "gguf":
        dense_gguf(source, form)
        return
    if method and (method != "fp8" or healed or form.dtype):
        raise UserError(
            f"export={form.format}: the weights of {source.name} are quantised ({method}), and "
            "transformers cannot write them with changes. Use the model that they were quantised "
            "from, or export=none."
        )


def export(
    source: Source,
    point: Point,
    folder: Path,
    curve: Sequence[Point] = (),
    form: ExportConfig = HF,
    note: str = "",
    stream: bool = False,
) -> Path:
    """Write a checkpoint: weights, configuration, tokenizer, plan and scores, and a model card.

    `folder` is the point's; the checkpoint is `model` within it, or `form.path`. Weights are in the
    dtype of `form`, or else in the dtype of the model's files, whatever dtype it was healed and
    evaluated in. They are copied from file to file if healing has not changed them; if it has, the
    model is loaded again, and the changes are merged into it. `curve` are the points that the card
    shows beside this one, and `note` is a paragraph of the card. A GGUF file is written instead if
    `form` says so.

    Raises `UserError`, and leaves no folder, if the checkpoint is not the model that was measured,
    or if something else lies at `form.path`. With `stream` layers stay on disk during that check.
    """
    healing = point.healing
    changes = folder if healing is not None and healing.steps[-1].step > 0 else None
    refuse_export(source, form, changes is not None)
    checkpoint = checkpoint_folder(folder, form)
    if form.path is not None and checkpoint.exists() and exported(checkpoint)[0] != point.key:
        raise UserError(
            f"export.path={form.path} exists and holds something else: remove it, or name another."
        )
    title = f"export={form.format}: {checkpoint} cannot be written"
    with explained(title, (UserError, OSError)), replacing_folder(checkpoint) as beside:
        if form.format == "gguf":
            gguf = write_gguf(source, point, changes, form, beside)
            _describe(point, curve, form, note, beside, gguf)
        else:
            _write_weights(source, point, changes, form, beside)
            _copy_tokenizer(source, beside)
            _describe(point, curve, form, note, beside)
            exact = not changes and form.dtype in (None, weights_dtype(source.folder))
            verify_logits(source, point, changes, beside, exact, stream)
    return checkpoint


def _write_weights(
    source: Source, point: Point, changes: Path | None, form: ExportConfig, folder: Path
) -> None:
    """Write weights and configuration, as transformers reads them."""
    if not changes and copy_without_layers(source, point.plan.dropped, folder, form.dtype, SHARD):
        return
    model: Any = measured_model(source, point, changes, weights_dtype(source.folder)).model
    if form.dtype is not None:  # only now: updates are merged in the finer precision
        model = model.to(getattr(torch, form.dtype.value))
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        untie(model)
    model.save_pretrained(folder, max_shard_size=SHARD)
    if not source.remote_code:
        write_config(source, model, folder)


def _describe(
    point: Point,
    curve: Sequence[Point],
    form: ExportConfig,
    note: str,
    folder: Path,
    gguf: GGUFExport | None = None,
) -> None:
    """Write the manifest and the model card."""
    content = point.to_json()
    write_json(
        folder / ABOUT,
        {
            "key": point.key,
            **{name: content[name] for name in ("model", "plan", "scores", "loss")},
            "versions": point.provenance.versions,
            "export": form_facts(form),
            "said": note,
            **({} if gguf is None else {"gguf": gguf.to_json()}),
        },
    )
    (folder / "README.md").write_text(
        card(point, curve, form, note, _config_version(folder), gguf), encoding="utf-8"
    )


def _config_version(folder: Path) -> str:
    """Return the version of transformers whose form `config.json` has, if there is one."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return str(config.get("transformers_version", "unknown"))


def _copy_tokenizer(source: Source, folder: Path) -> None:
    """Copy the source's own files; transformers would rewrite them in its version's form."""
    if source.remote_code:
        load_tokenizer(source).save_pretrained(folder)
        return
    files = [file for pattern in TOKENIZER_FILES for file in source.folder.glob(pattern)]
    for file in filter(Path.is_file, files):
        shutil.copyfile(file, folder / file.name)
    if not (folder / "tokenizer_config.json").is_file():
        load_tokenizer(source).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {name: content[name] for name in content.keys() - LOCAL_FIELDS})
