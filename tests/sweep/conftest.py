"""What the tests of sweeps share."""

import pytest
from sweeping import HEAL, grid, sweep
from tiny import byte_tokenizer, tiny


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, models, tiny_tasks, presets):
    """The grid's `curves.csv`, made in one go."""
    home = tmp_path_factory.mktemp("undisturbed")
    sweep(home, models, tiny_tasks, *grid(presets))
    return home
