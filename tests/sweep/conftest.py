"""What the tests of sweeps share."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from sweeping import HEAL, arguments
from tiny import byte_tokenizer, tiny

from layerprune import cli


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models, by their folders."""
    home = tmp_path_factory.mktemp("sweep")
    folders = []
    for name, hidden in (("one", 32), ("other", 48)):
        folders.append(home / name)
        model = tiny("llama", vocab_size=259, max_position_embeddings=512, hidden_size=hidden)
        model.save_pretrained(folders[-1])
        byte_tokenizer().save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A recipe under a separate name, so that `heal` can be swept."""
    folder = tmp_path_factory.mktemp("presets")
    (folder / "heal").mkdir()
    keys = "".join(f"{key.removeprefix('heal.').replace('=', ': ')}\n" for key in HEAL)
    (folder / "heal" / "quick.yaml").write_text("defaults: [lora, _self_]\n" + keys + "rank: 2\n")
    return f"hydra.searchpath=[file://{folder}]"


@pytest.fixture
def sweep_here(monkeypatch, capsys) -> Callable:
    """Run a sweep inside this process, where torch is imported already."""

    def sweep(folder, models, tasks, *overrides, status=0):
        _, *argv = arguments(folder, models, tasks, *overrides)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        ended = 0
        try:
            cli.main()
        except SystemExit as end:
            ended = end.code
        printed = capsys.readouterr()
        assert ended == status, printed.err
        return SimpleNamespace(stdout=printed.out, stderr=printed.err)

    return sweep
