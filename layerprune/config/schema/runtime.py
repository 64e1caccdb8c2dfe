"""Where a run happens."""

from dataclasses import dataclass
from enum import Enum

from layerprune.config.size import num_bytes
from layerprune.errors import UserError


class DeviceMap(Enum):
    """Who decides where a model's parts are."""

    auto = "auto"


SAME_MEMORY = "2GiB"
"""What `runtime.deterministic` takes for `runtime.memory`: what is free differs from run to run."""


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Where a run happens; nothing here changes a result beyond rounding."""

    outputs: str = "outputs"
    """Folder that holds the studies and the cache."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    device_map: DeviceMap | None = None
    """`auto`: the model is spread over all GPUs, and what they cannot hold waits in the machine's
    memory, or on its disk. Models are only asked then, not healed."""
    shard: bool = False
    """While a model is healed, each process of `torchrun` holds a share of its frozen weights, and
    layers are put together where they run (FSDP): for `heal=lora` and `heal=qlora`."""
    stream: bool = False
    """Layers stay in the model's files, and one at a time is in memory: each is read once for all
    cut models and as much text and as many questions as `memory` holds the states of. Models are
    only asked then, or healed by `heal=seam`."""
    spill: bool = False
    """With `stream`: states that wait for their next layer do so on disk, in `outputs`, in place of
    memory. Fewer passes over the model's files are needed then."""
    threads: int | None = None
    """CPU threads; PyTorch's choice if not given."""
    deterministic: bool = False
    """The same point, made anew with as many threads on the same machine, is equal to the bit:
    PyTorch's deterministic algorithms alone, and a `memory` of 2 GiB unless it is given, since how
    much runs at once decides how sums are rounded. Records say so."""
    memory: str | None = None
    """What may be used beside the model while it is asked, as in `2GiB`; half of what is free if
    not given. It decides how much runs at once, and how much waits."""

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number; None for what the machine has."""
        if self.memory is None:
            return num_bytes(SAME_MEMORY) if self.deterministic else None
        return num_bytes(self.memory)

    def __post_init__(self) -> None:
        try:
            enough = self.memory_bytes is None or self.memory_bytes > 0
        except ValueError:
            enough = False
        if not enough:
            raise UserError(f"runtime.memory={self.memory}: give a size such as 500MB or 2GiB.")
        if self.device_map is not None and self.device != "auto":
            raise UserError("runtime.device and runtime.device_map exclude each other: give one.")
        if self.device_map is not None and self.stream:
            raise UserError("runtime.stream and runtime.device_map exclude each other: give one.")
        if self.spill and not self.stream:
            raise UserError("runtime.spill means nothing without runtime.stream: leave it out.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"runtime.threads={self.threads}: it must be at least 1.")
