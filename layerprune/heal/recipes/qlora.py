"""LoRA adapters on weights in 4 bits."""

from layerprune.config.registry import recipe
from layerprune.config.schema import Quantization, TrainingLoad
from layerprune.heal.recipes.lora import Lora
from layerprune.heal.setup import HealContext, TrainingSetup


@recipe("qlora", reference="Dettmers et al., arXiv 2305.14314")
class Qlora(Lora):
    """LoRA adapters on weights that are loaded in 4 bits (NF4); norms are in float32."""

    quantizes_to = Quantization.nf4

    # Its states move to the CPU's memory when the GPU's is full. On a CPU, plain AdamW takes its
    # place, which computes the same.
    optimizer: str = "paged_adamw_32bit"

    def training_load(self, kept: int, dense: int, first: int) -> TrainingLoad:
        """Return the load of the adapters; on a GPU, activations are recomputed."""
        return TrainingLoad(layers=3 * kept, heads=2, saved_layers=1, saved_inputs=kept)

    def prepare(self, context: HealContext) -> TrainingSetup:
        """Add adapters to the pruned model, to be trained on the next token."""
        from peft import prepare_model_for_kbit_training

        prepare_model_for_kbit_training(context.model, use_gradient_checkpointing=False)
        return Lora.prepare(self, context)
