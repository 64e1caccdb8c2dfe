"""Frozen weights of a model in training, shared out over the processes of a run.

PyTorch's FSDP2 (`fully_shard`) holds a part of each layer in each process, and puts a layer
together where it is to run. Low-rank updates are small: every process has them whole, and their
gradients are averaged as they are without this.
"""

import gc
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from layerprune import memory, processes
from layerprune.heal.course import Course
from layerprune.model.spread import input_device
from layerprune.model.stack import decoder_stack
from layerprune.paths.room import SHARE_OF_FREE


def share_out(course: Course, model: PreTrainedModel, device: torch.device) -> None:
    """Share out the frozen weights of a model's layers, in place; all else goes to `device` whole.

    From now on the model runs in all processes at once or in none. They must have been joined, as
    `loop.arguments` does.
    """
    mesh = init_device_mesh(device.type, (processes.count(),))
    layer: Any  # an FSDPModule, once it is shared out
    for layer in decoder_stack(model).layers:
        layer.to(device)
        trained = {part for part in layer.parameters() if part.requires_grad}
        fully_shard(layer, mesh=mesh, ignored_params=trained)
        # What a layer is put together in is kept; made where a loss is measured, in inference mode,
        # it would be of no use in training.
        layer.unshard()
        layer.reshard()
    model.to(device)  # type: ignore[arg-type] # transformers' decorator hides what it takes
    objective = course.objective
    shared = [name for name, part in objective.named_parameters() if isinstance(part, DTensor)]
    # PyTorch's way to say so to what the training loop averages gradients with.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, shared)


def all_let_go() -> None:
    """Returns when what this and every other process held of a model is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    distributed.barrier()


def common_budget(model: PreTrainedModel, asked: int | None) -> int | None:
    """Bytes for what runs beside a model: `asked`, or what every process that holds a share has.

    They run the same batches at the same time, so that none may choose its own.
    """
    shared = any(isinstance(part, DTensor) for part in model.parameters())
    if asked is not None or not shared:
        return asked
    device = input_device(model)
    free = torch.tensor(memory.free(device), device=device)
    distributed.all_reduce(free, distributed.ReduceOp.MIN)
    return int(free * SHARE_OF_FREE)
