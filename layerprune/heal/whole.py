"""Training weights themselves: all of them, or the head and the last layers."""

from layerprune.heal.course import Course, Examples, Subject, known
from layerprune.heal.objectives import NextToken
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers


def full(subject: Subject) -> Course:
    """Every weight of the cut model, trained to predict the next token."""
    model = drop_layers(subject.model, subject.plan.dropped)
    model.requires_grad_(True)
    return Course(NextToken(model), Examples(subject.ids_ST), whole=True)


def tail(subject: Subject) -> Course:
    """The head, the final norm and the last `heal.last_layers` layers of the cut model.

    A head that is tied to the input embeddings is trained as one with them. Source: Lu et al.,
    arXiv 2411.15558, which trains the head and the last three layers.
    """
    model = drop_layers(subject.model, subject.plan.dropped)
    model.requires_grad_(False)
    model.get_output_embeddings().requires_grad_(True)
    stack = decoder_stack(model)
    for layer in stack.layers[-known(subject.config.last_layers) :]:
        layer.requires_grad_(True)
    for name, part in stack.decoder.named_children():
        if "norm" in name or name == "ln_f":
            part.requires_grad_(True)
    return Course(NextToken(model), Examples(subject.ids_ST))
