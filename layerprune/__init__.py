"""How many layers of a language model can be dropped, and what does it cost?

import layerprune
model = layerprune.drop_layers(model, [21, 22, 23])
distances = layerprune.profile(model, tokenizer, texts)
fitted = layerprune.fit("model=FOLDER", "heal=lora", "export=hf", keep=0.95)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerprune.errors import UserError
    from layerprune.model.stack import UnsupportedArchitecture
    from layerprune.model.surgery import drop_layers
    from layerprune.prune.layer_distances import layer_distances
    from layerprune.prune.layer_distances import layer_distances as profile
    from layerprune.search.fit import fit

__all__ = [
    "UnsupportedArchitecture",
    "UserError",
    "drop_layers",
    "fit",
    "layer_distances",
    "profile",
]

_HOMES = {
    "UnsupportedArchitecture": "layerprune.model.stack",
    "UserError": "layerprune.errors",
    "drop_layers": "layerprune.model.surgery",
    "fit": "layerprune.search.fit",
    "layer_distances": "layerprune.prune.layer_distances",
    "profile": "layerprune.prune.layer_distances",
}


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when something of theirs is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'layerprune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), "layer_distances" if name == "profile" else name)
