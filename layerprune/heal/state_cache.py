"""Hidden states of a model on healing text, computed once, stored on disk and memory-mapped.

Letters: S sequences, T tokens in each, H hidden size.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.errors import UserError
from layerprune.model.partial_forward import runs_layer_by_layer
from layerprune.model.stack import decoder_stack, text_config
from layerprune.prune.hidden_states import states_by_layers
from layerprune.runtime.atomic_files import (
    CorruptFile,
    creating_folder,
    verify_checksums,
    write_checksums,
)
from layerprune.runtime.progress import progress_bar

BATCH = 8


def cached_states(
    model: PreTrainedModel, ids_ST: Tensor, numbers: Sequence[int], folder: Path
) -> list[Tensor]:
    """Return the states of those numbers, [S, T, H] each; state l is the input of layer l.

    They are in the model's precision, and memory-mapped from `folder`. If that is not complete,
    they are computed in one pass over the layers below the last one, and written atomically.
    Raises `UserError` if there is too little disk space.
    """
    size = int(text_config(model).hidden_size)
    dtype = next(decoder_stack(model).layers[0].parameters()).dtype
    if folder.is_dir():
        try:
            verify_checksums(folder)
        except CorruptFile:
            shutil.rmtree(folder)
    if not folder.is_dir():
        _check_disk_space(folder, len(numbers) * ids_ST.numel() * size * dtype.itemsize)
        with creating_folder(folder) as new_folder:
            _compute(model, ids_ST, numbers, new_folder)
            write_checksums(new_folder, [_file(new_folder, number).name for number in numbers])
    return [
        torch.from_file(
            str(_file(folder, number)), shared=False, size=ids_ST.numel() * size, dtype=dtype
        ).view(*ids_ST.shape, size)
        for number in numbers
    ]


def _compute(model: PreTrainedModel, ids_ST: Tensor, numbers: Sequence[int], folder: Path) -> None:
    batches, last = ids_ST.split(BATCH), max(numbers)
    # Streamed layers are read once, for all batches; a model in memory buffers one batch at a time.
    passes = [batches] if runs_layer_by_layer(model) else [(batch,) for batch in batches]
    with ExitStack() as stack:
        files = {
            number: stack.enter_context(_file(folder, number).open("wb")) for number in numbers
        }
        stack.enter_context(torch.inference_mode())
        spill = Path(stack.enter_context(TemporaryDirectory(dir=folder)))
        total = len(batches) * (last + 1)
        advance = stack.enter_context(progress_bar("states at the seam", total=total))
        for together in passes:
            buffer = spill if len(passes) == 1 else None
            for number, _, state_BTH in states_by_layers(model, together, last, buffer):
                if number in files:
                    data = state_BTH.contiguous().cpu().view(torch.uint8).numpy()
                    files[number].write(data.tobytes())
                advance(1)


def _file(folder: Path, number: int) -> Path:
    return folder / f"state-{number}.bin"


def _check_disk_space(folder: Path, num_bytes: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if num_bytes > free:
        raise UserError(
            f"heal=seam stores {num_bytes / 2**30:.1f} GiB of states in {folder.parent}, where "
            f"{free / 2**30:.1f} GiB are free: use a smaller heal.sequences."
        )
