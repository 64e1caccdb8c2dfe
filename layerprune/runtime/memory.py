"""Free and peak memory of a process, or of its GPUs, in bytes."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_GROUPS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def reset_peak(device: torch.device) -> None:
    """Free unused memory, then restart the measurement of `peak`."""
    gc.collect()
    if device.type == "cuda":
        if torch.cuda.is_initialized():  # before, there is nothing to reset, and CUDA refuses
            torch.cuda.empty_cache()
            for gpu in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(gpu)
        return
    trim()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # Linux: the peak becomes what is resident now


def trim() -> None:
    """Return the process's free heap memory to the system.

    glibc keeps freed blocks of up to 32 MB by size: temporary matrices would otherwise fill a
    memory that could hold them all once.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only


def peak(device: torch.device) -> int:
    """Return the peak since `reset_peak`: allocated on all GPUs, or resident in the process.

    Where the system cannot reset it, the peak since the process started.
    """
    if device.type == "cuda":
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def free(device: torch.device) -> int:
    """Return the free bytes of a GPU, or of the machine within the limits of its control groups."""
    if device.type == "cuda":
        # PyTorch keeps freed blocks for itself, which the driver counts as used.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    left = int(psutil.virtual_memory().available)
    for line in _read_lines(_GROUPS):  # limits of a container or a batch system
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            left = min(left, _left(_CGROUPS / path.lstrip("/"), "memory.max", "memory.current"))
        elif "memory" in kinds.split(","):
            group = _CGROUPS / "memory" / path.lstrip("/")
            left = min(left, _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes"))
    return max(0, left)


def _left(group: Path, limit: str, used: str) -> int:
    """Return the free bytes of a control group; its cached files count as free."""
    try:
        most, now = (int((group / name).read_text()) for name in (limit, used))
    except (OSError, ValueError):  # "max": no limit
        return sys.maxsize
    stat = dict(map(str.split, _read_lines(group / "memory.stat")))
    cached = sum(int(stat.get(name, 0)) for name in ("inactive_file", "active_file"))
    return most - now + cached


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
