"""States of a model on healing text, computed once and kept on disk, mapped into memory.

Letters: S sequences, T tokens in each, H hidden size.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune.errors import UserError
from layerprune.files import Damaged, check_sums, creating_folder, write_sums
from layerprune.model.segment import by_layers
from layerprune.model.spread import input_device
from layerprune.model.stack import decoder_stack, text_config
from layerprune.model.surgery import dropped
from layerprune.progress import bar
from layerprune.similarity.states import catching, states_by_layers

BATCH = 8


def stored_states(
    model: PreTrainedModel, ids_ST: Tensor, wanted: Sequence[int], folder: Path
) -> list[Tensor]:
    """For each of the wanted states (state l is the input of layer l): [S, T, H], from `folder`.

    In the model's precision. What is not there yet is computed in one pass over the layers below
    the last wanted state, and written whole or not at all.
    """
    size = int(text_config(model).hidden_size)
    shape = (*ids_ST.shape, size)
    kind = decoder_stack(model).layers[0].parameters().__next__().dtype
    if folder.is_dir():
        try:
            check_sums(folder)
        except Damaged:
            shutil.rmtree(folder)
    if not folder.is_dir():
        _check_room(folder, len(wanted) * ids_ST.numel() * size * kind.itemsize)
        with creating_folder(folder) as beside:
            _compute(model, ids_ST, wanted, beside)
            write_sums(beside, [_path(beside, state).name for state in wanted])
    return [
        torch.from_file(
            str(_path(folder, state)), shared=False, size=ids_ST.numel() * size, dtype=kind
        ).view(shape)
        for state in wanted
    ]


def _compute(model: PreTrainedModel, ids_ST: Tensor, wanted: Sequence[int], folder: Path) -> None:
    batches = ids_ST.split(BATCH)
    with ExitStack() as stack:
        files = {state: stack.enter_context(_path(folder, state).open("wb")) for state in wanted}
        stack.enter_context(torch.inference_mode())
        last = max(wanted)
        if by_layers(model):
            spill = stack.enter_context(TemporaryDirectory(dir=folder))
            advance = stack.enter_context(
                bar("states at the seam", total=len(batches) * (last + 1))
            )
            for number, _, state in states_by_layers(model, batches, last, Path(spill)):
                if number in files:
                    _append(files[number], state)
                advance(1)
            return
        # One layer at least has to stay.
        stack.enter_context(dropped(model, range(max(last, 1), len(decoder_stack(model).layers))))
        advance = stack.enter_context(bar("states at the seam", total=len(ids_ST)))
        for ids_BT in batches:
            states: list[Tensor] = []
            decoder = decoder_stack(model)
            with catching(decoder, states.append):
                decoder.decoder(input_ids=ids_BT.to(input_device(model)), use_cache=False)
            for number, file in files.items():
                _append(file, states[number])
            advance(len(ids_BT))


def _append(file: BinaryIO, state_BTH: Tensor) -> None:
    file.write(state_BTH.contiguous().cpu().view(torch.uint8).numpy().tobytes())


def _path(folder: Path, state: int) -> Path:
    return folder / f"state-{state}.bin"


def _check_room(folder: Path, needed: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"heal=seam keeps {needed / 2**30:.1f} GiB of states in {folder.parent}, where "
            f"{free / 2**30:.1f} GiB are free: try a smaller heal.sequences."
        )
