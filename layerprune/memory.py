"""The most memory that something took: of the process, or of the GPU that it runs on."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak(device: "torch.device") -> None:
    """Let `peak` begin anew, once what nobody uses any more has been given back."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc alone has it
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # Linux: the peak becomes what is resident now


def peak(device: "torch.device") -> int:
    """Bytes at the highest since `reset_peak`: allocated on a GPU, or resident in the process.

    Where a system cannot begin anew, it is the highest since the process started.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
