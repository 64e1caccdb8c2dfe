"""No healing."""

from layerprune.config.registry import recipe
from layerprune.config.schema import HealOptions


@recipe("none", reference="the pruned model, for comparison")
class NoHealing(HealOptions):
    """The pruned model is left as it is."""
