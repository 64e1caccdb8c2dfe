"""Sharding of the frozen weights of a model in training over the processes of a run.

With PyTorch's FSDP2 (`fully_shard`), each process holds a shard of each layer, and a layer is
gathered where it runs. LoRA adapters are small: every process holds all of them, and their
gradients are averaged as without sharding.
"""

import gc
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from layerprune.heal.setup import TrainingSetup
from layerprune.model.offload import input_device
from layerprune.model.stack import decoder_stack
from layerprune.runtime import memory, processes
from layerprune.shared_forward.memory_budget import FREE_MEMORY_SHARE


def shard_frozen_weights(
    setup: TrainingSetup, model: PreTrainedModel, device: torch.device
) -> None:
    """Shard the frozen weights of a model's layers, in place; move everything else to `device`.

    From now on, all processes must run the model together. `training_arguments` must have
    connected them.
    """
    mesh = init_device_mesh(device.type, (processes.num_processes(),))
    layer: Any  # an FSDPModule, once it is sharded
    for layer in decoder_stack(model).layers:
        layer.to(device)
        trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
        fully_shard(layer, mesh=mesh, ignored_params=trained)
        # The buffer of a gathered layer is reused. If the first loss, measured in inference mode,
        # allocated it, training could not use it.
        layer.unshard()
        layer.reshard()
    model.to(device)  # type: ignore[arg-type] # transformers' decorator hides the argument's type
    objective = setup.objective
    sharded = [name for name, part in objective.named_parameters() if isinstance(part, DTensor)]
    # PyTorch has no public way to exclude them from the averaging of gradients.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, sharded)


def is_sharded(model: nn.Module) -> bool:
    """Return True if weights of a model are sharded over processes."""
    return any(isinstance(part, DTensor) for part in model.parameters())


def wait_until_freed() -> None:
    """Return when this and every other process have freed their memory of a model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    distributed.barrier()


def common_budget(model: PreTrainedModel, memory_bytes: int | None) -> int | None:
    """Return the memory budget beside a model: `memory_bytes`, or what every process has free.

    Processes with a sharded model run the same batches at the same time, so none may choose its
    own budget. None if the model is not sharded and no budget is given.
    """
    if memory_bytes is not None or not is_sharded(model):
        return memory_bytes
    device = input_device(model)
    free = torch.tensor(memory.free(device), device=device)
    distributed.all_reduce(free, distributed.ReduceOp.MIN)
    return int(free * FREE_MEMORY_SHARE)
