"""LoRA adapters on weights in the model's own precision."""

from typing import TYPE_CHECKING

from layerprune.config.registry import recipe
from layerprune.config.schema import LoraOptions
from layerprune.errors import UserError
from layerprune.heal.setup import HealContext, TrainingSetup

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@recipe("lora", reference="Gromov et al., arXiv 2403.17887, appendix A.1")
class Lora(LoraOptions):
    """LoRA adapters on the feed-forward projections, with alpha = rank by default.

    These choices come from Lee et al., arXiv 2308.07317.
    """

    shardable = True

    def prepare(self, context: HealContext) -> TrainingSetup:
        """Add adapters to the pruned model, to be trained on the next token."""
        model = context.prune()
        if context.recompute_activations:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()  # or nothing below the first adapter has a gradient
        return context.train_on_text(adapted=add_adapters(model, self))


def add_adapters(model: "PreTrainedModel", options: LoraOptions) -> "PeftModel":
    """Freeze a model's weights and add trainable LoRA adapters, in place.

    Raises `UserError` for a name in `heal.targets` that no module has.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    from layerprune.model.stack import feed_forward_names

    names = [name for name, _ in model.named_modules()]
    for target in options.targets or ():
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(f"heal.targets: {target} is not the name of a module.")
    adapted = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=options.rank,
            lora_alpha=options.alpha or options.rank,
            lora_dropout=options.dropout,
            target_modules=options.targets or feed_forward_names(model),
        ),
    )
    assert isinstance(adapted, PeftModel)
    return adapted
