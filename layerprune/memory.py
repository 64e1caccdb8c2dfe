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
_GROUPS = Path("/proc/self/cgroup")
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
    trim()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # Linux: the peak becomes what is resident now


def trim() -> None:
    """Give back to the system what is free in the process.

    glibc keeps what was freed for later, and blocks of up to 32 MB of every size in places of their
    own: matrices that come and go would fill a memory that could hold them all once.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc alone has it


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
    for line in _read_lines(_GROUPS):  # a container's limit, or a batch system's
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            left = min(left, _left(_CGROUPS / path.lstrip("/"), "memory.max", "memory.current"))
        elif "memory" in kinds.split(","):
            group = _CGROUPS / "memory" / path.lstrip("/")
            left = min(left, _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes"))
    return max(0, left)


def _left(group: Path, limit: str, used: str) -> int:
    """What a control group leaves; files that are cached in it give way."""
    try:
        most, now = (int((group / name).read_text()) for name in (limit, used))
    except (OSError, ValueError):  # "max" is no number: no limit
        return sys.maxsize
    stat = dict(map(str.split, _read_lines(group / "memory.stat")))
    cached = sum(int(stat.get(name, 0)) for name in ("inactive_file", "active_file"))
    return most - now + cached


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
