"""Installs a pretended device: see `tests/helpers/pretended.py`."""

import os

import pytest
import torch

if os.environ.get("PRETENDED_DEVICE"):  # `make test-device`
    os.environ["ACCELERATE_TORCH_DEVICE"] = "pretend:0"
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    import pretended

    DEVICE = pretended.install()
else:  # it changes the whole process
    collect_ignore_glob = ["test_*"]


@pytest.fixture
def device(monkeypatch):
    """The pretended device, with a GiB of free memory and no pinned memory."""
    from layerprune.runtime import memory

    free, peak, reset = memory.free, memory.peak, memory.reset_peak

    def pretends(device):
        return device.type == pretended.NAME

    monkeypatch.setattr(memory, "free", lambda of: 2**30 if pretends(of) else free(of))
    monkeypatch.setattr(memory, "peak", lambda of: 1 if pretends(of) else peak(of))
    monkeypatch.setattr(memory, "reset_peak", lambda of: None if pretends(of) else reset(of))
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    pretended.WAITS.clear()
    return DEVICE
