"""Isolation of the jobs of a process: random numbers and PyTorch settings."""

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

DEFAULT_THREADS = torch.get_num_threads()
"""PyTorch's default, before any job sets another number."""


@contextmanager
def seeded(
    seed: int,
    threads: int | None,
    deterministic: bool = False,
    float32_matmul_precision: str = "highest",
) -> Iterator[None]:
    """Seed all random generators for the block, and restore the state of before after it.

    With `deterministic`, operations that are not bit-identical on repeat raise `RuntimeError`.
    Restored are the generators, the default precision, the precision of float32 products, the
    number of threads, gradient recording and determinism. Unused memory is freed.
    """
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    threads_before = torch.get_num_threads()
    precision_before = torch.get_float32_matmul_precision()
    torch.set_num_threads(threads or DEFAULT_THREADS)
    torch.set_float32_matmul_precision(float32_matmul_precision)
    if deterministic:
        # The command line sets it; here for callers of `run`. cuBLAS reads it when first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # every device's
    try:
        yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(deterministic_before)
        torch.set_num_threads(threads_before)
        torch.set_float32_matmul_precision(precision_before)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
