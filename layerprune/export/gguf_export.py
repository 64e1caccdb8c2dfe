"""Write a point's model as a GGUF file that is checked in transformers and llama.cpp."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.config.schema import ExportConfig
from layerprune.errors import UserError
from layerprune.export.gguf import dense_gguf, file_stem, setting, write_cut
from layerprune.export.gguf_check import GGUFCheck, verify_gguf
from layerprune.export.gguf_weights import ChangedWeights, changed_weights
from layerprune.export.verification import measured_model
from layerprune.model.source import Source
from layerprune.model.weight_files import weights_dtype
from layerprune.record.point import Point
from layerprune.runtime.progress import say


@dataclass(frozen=True)
class GGUFExport:
    """A GGUF file, as its manifest and its card describe it."""

    file: str
    """Its name."""
    cut_from: str
    """Name of the dense model's file."""
    quantized: dict[str, str]
    """Types of the tensors that healing changed, by the names that they have in the dense file."""
    check: GGUFCheck

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for the manifest."""
        return {
            "file": self.file,
            "cut_from": self.cut_from,
            "quantized": self.quantized,
            "check": self.check.to_json(),
        }


def write_gguf(
    source: Source, point: Point, changes: Path | None, form: ExportConfig, folder: Path
) -> GGUFExport:
    """Cut the dense model's GGUF file, and write what healing changed.

    `changes` is the folder of the point, if healing changed weights. Raises `UserError` if the file
    is not the model that was measured.
    """
    dense_file, reader = dense_gguf(source, form)
    count, kept = int(setting(reader, "block_count")), point.plan.kept
    if count != source.num_layers:
        raise UserError(
            f"export=gguf: {dense_file} has {count} layers, and {source.name} has "
            f"{source.num_layers}. Name that model's file by export.gguf_from=FILE."
        )
    of_another_file = source.gguf is None or not dense_file.samefile(source.gguf)
    weights = ChangedWeights()
    if changes is not None or of_another_file:
        dtype = weights_dtype(source.folder)
        before = measured_model(source, point, None, dtype).model
        after = before
        if changes is not None:
            after = measured_model(source, point, changes, dtype).model
        weights = changed_weights(reader, kept, before, after, form.gguf_type, of_another_file)
        del before, after
    for kind, other in weights.instead.items():
        say(
            f"export=gguf: the gguf package cannot write {kind}, so healed tensors of that type "
            f"are {other} now. export.gguf_type=TYPE chooses another."
        )
    name = f"{source.name.removesuffix('.gguf')} without {point.num_dropped} layers"
    path = folder / f"{file_stem(source.name, len(kept), count)}.gguf"
    write_cut(reader, point.plan.dropped, name, path, weights.tensors)
    check = verify_gguf(source, point, changes, path, weights.values)
    return GGUFExport(path.name, dense_file.name, weights.types, check)
