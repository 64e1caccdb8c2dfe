"""Memory of a process, or of the GPU that it runs on: what is free, and the most it ever took."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CGROUPS = Path("/sys/fs/cgroup")


def reset_peak(device: "torch.device") -> None:
    """Let `peak` begin anew, once what nobody uses any more has been given back."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
        for each in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(each)
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc alone has it
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # Linux: the peak becomes what is resident now


def peak(device: "torch.device") -> int:
    """Bytes at the highest since `reset_peak`: allocated on GPUs, or resident in the process.

    Where a system cannot begin anew, it is the highest since the process started.
    """
    if device.type == "cuda":
        import torch

        # Of a model in one place all others have none.
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def free(device: "torch.device") -> int:
    """Bytes that can still be had: of a GPU, or of the machine and what limits its processes."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    left = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # a container's limit, or a batch system's
        group = _CGROUPS / Path("/proc/self/cgroup").read_text().strip().rpartition(":/")[2]
        limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        left = min(left, int(limit) - int(used))  # "max" is no number: no limit
    return max(0, left)
