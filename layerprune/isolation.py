"""What one job of a process must not leave to the next one."""

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

DEFAULT_THREADS = torch.get_num_threads()
"""PyTorch's own choice, before any job asks for another number."""


@contextmanager
def isolated(seed: int, threads: int | None, same: bool = False) -> Iterator[None]:
    """Inside the block all random numbers follow from `seed`; after it all is as it was.

    With `same`, only algorithms run that give the same bits each time; others raise `RuntimeError`.

    That is: every generator of random numbers, the default precision, the number of threads,
    whether gradients are recorded and whether algorithms are deterministic. Memory that nobody uses
    any more is given back.
    """
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or DEFAULT_THREADS)
    if same:
        # cuBLAS reads it when it is first used (PyTorch's notes on reproducibility).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of every device
    try:
        yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads_before)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
