"""The equalities that decide whether layers of a type of model may be dropped.

Without some of its layers, a model (a) equals the same model with these layers made the identity,
(b) generates with its cache what it generates without, (c) is the same when plain transformers has
saved and loaded it, (d) is the same whether layers go in one step or in two; and (e) a cut that is
undone leaves the model bit-identical.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from layerprune.model.partial_forward import partial_forward
from layerprune.model.stack import UnsupportedArchitecture, decoder_stack
from layerprune.model.surgery import drop_layers, dropped

CUTS = ([0, 1], [2, 3, 4], [6], [7], [1, 4, 6])
"""At the start, across a boundary of every pattern, near the end, at the end, scattered."""

IDS_BT = torch.randint(3, 96, (2, 21), generator=torch.Generator().manual_seed(7))
NEW = 6
CLOSE = 1e-4


class Identity(nn.Module):
    """A layer that hands its input on, in the form that the layer it replaces would use.

    What a layer says of itself, such as its kind of attention, is still said: decoders look at it
    to choose a mask.
    """

    def __init__(self, layer: nn.Module, passes: tuple[str | None, ...] | None) -> None:
        super().__init__()
        self.passes = passes
        for name, value in vars(layer).items():
            if not name.startswith("_") and name not in vars(self):
                setattr(self, name, value)
        for name, part in layer.named_children():
            setattr(self, name, part)
        for name in ("attention_type", "layer_type"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.passes is None:
            return hidden_states
        given = {str(at): value for at, value in enumerate(args)} | kwargs
        return (hidden_states, *(name and given.get(name) for name in self.passes))


PASSES: dict[str, tuple[str | None, ...]] = {
    "glm_moe_dsa": ("prev_topk_indices",),
    "hy_v4": ("prev_topk_indices",),
    "zaya": ("0",),
}
"""What layers of a type put out beside their state: arguments, by name or place, handed on."""


def with_identities(model: Any, layers: Sequence[int]) -> Any:
    """The oracle: nothing about the model changes but what the layers compute."""
    oracle = copy.deepcopy(model)
    stack = decoder_stack(oracle)
    outputs: dict[nn.Module, Any] = {}
    hooks = [
        layer.register_forward_hook(lambda module, _args, out: outputs.update({module: out}))
        for layer in stack.layers
    ]
    logits(oracle, use_cache=False)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        passes = None
        output = outputs.get(stack.layers[layer])
        if output is not None and not isinstance(output, Tensor):
            none = (None,) * (len(output) - 1)
            passes = PASSES.get(model.config.model_type, none)
        stack.layers[layer] = Identity(stack.layers[layer], passes)
    return oracle


def logits(model: Any, ids_BT: Tensor = IDS_BT, **kwargs: Any) -> Tensor:
    with torch.inference_mode():
        return model(ids_BT, **kwargs).logits


def generated(model: Any, use_cache: bool) -> tuple[Tensor, Tensor]:
    """Tokens, and the logits that they were chosen by."""
    with torch.inference_mode():
        out = model.generate(
            IDS_BT,
            attention_mask=torch.ones_like(IDS_BT),
            do_sample=False,
            use_cache=use_cache,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
    return out.sequences, torch.stack(out.logits, dim=1)


def apart(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to how large values are; infinite for what is no number."""
    if actual.shape != expected.shape or not torch.isfinite(actual).all():
        return float("inf")
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item()


def identity(model: Any, layers: Sequence[int]) -> str:
    """(a), by what it is broken: '' if it holds. The cut is temporary."""
    with dropped(model, layers):
        actual = logits(model, use_cache=False)
    expected, dense = logits(with_identities(model, layers), use_cache=False), logits(model)
    error = apart(actual, expected)
    if error > CLOSE:
        return f"(a) logits differ from the identities' logits by {error:.1e}"
    if apart(actual, dense) < 1e-3:
        return "(a) the layers do not matter: nothing is shown"
    return ""


def cache(model: Any, layers: Sequence[int]) -> str:
    """(b), and the dense model's generation. The cut is temporary."""
    with dropped(model, layers):
        ids, steps = generated(model, use_cache=True)
        wanted_ids, wanted = generated(model, use_cache=False)
    error = apart(steps, wanted)
    if error > 10 * CLOSE or not torch.equal(ids, wanted_ids):
        return f"(b) generation with the cache differs by {error:.1e}"
    return ""


def reload(model: Any, layers: Sequence[int], folder: Any) -> str:
    """(c): the cut model is saved, and loaded by transformers alone."""
    cut = drop_layers(copy.deepcopy(model), layers)
    cut.save_pretrained(folder)
    again, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            return f"(c) {kind}: {sorted(map(str, report[kind]))[0]}"
    if names := _new(model.config.to_dict(), cut.config.to_dict()):
        return f"(c) config.json has names that the dense model's lacks: {names}"
    error = apart(logits(again.eval()), logits(cut))
    return f"(c) loaded logits differ by {error:.1e}" if error > CLOSE else ""


def steps(model: Any, layers: Sequence[int]) -> str:
    """(d): the last of the layers first, then the others; or the other way about.

    Where a configuration cannot describe the model between the steps, there is only one step.
    """
    once = drop_layers(copy.deepcopy(model), layers)
    for first, then in ((layers[-1:], layers[:-1]), (layers[:1], [at - 1 for at in layers[1:]])):
        twice = copy.deepcopy(model)
        try:
            drop_layers(drop_layers(twice, first), then)
        except UnsupportedArchitecture:
            continue
        error = apart(logits(twice), logits(once))
        if error > 0:
            return f"(d) in two steps logits differ by {error:.1e}"
        names = _differing(once.config.to_dict(), twice.config.to_dict())
        return f"(d) in two steps the configuration differs: {names}" if names else ""
    return ""


def restored(model: Any, layers: Sequence[int]) -> str:
    """(e): the block leaves the model as it was."""
    before, config = logits(model), copy.deepcopy(model.config.to_dict())
    keys = list(model.state_dict())
    with dropped(model, layers):
        pass
    same = torch.equal(logits(model), before) and model.config.to_dict() == config
    return "" if same and list(model.state_dict()) == keys else "(e) the model is not restored"


def causal(model: Any) -> str:
    """Whether what comes later changes nothing, without which none of this means much."""
    error = apart(logits(model, IDS_BT[:, :15]), logits(model)[:, :15])
    return f"later tokens change earlier logits by {error:.1e}" if error > CLOSE else ""


WHERE = (torch.tensor([0, 0, 1]), torch.tensor([12, 20, 20]))
"""Rows and columns of some positions."""


def parts(model: Any) -> str:
    """Whether layers that run on their own, from states, come to what they come to together."""
    with torch.inference_mode():
        wanted = decoder_stack(model).decoder(input_ids=IDS_BT, use_cache=False).last_hidden_state
        given: dict[str, Any] = {"ids": IDS_BT}
        for slots in ((0,), (1, 2, 3), (4, 5), (6,), (7,)):
            with partial_forward(model, slots) as run:
                out = run(**given)
                if slots == (7,):
                    some = run(**given, positions=WHERE).normed
            given = {"state": out.state}
    if apart(out.normed, wanted) > CLOSE:
        return "layers"
    return "positions" if apart(some[WHERE], wanted[WHERE]) > CLOSE else ""


def verdicts(model: Any, folder: Any, cuts: Sequence[Sequence[int]] = CUTS) -> dict[str, str]:
    """By cut: 'equal', 'cannot be saved: ...', 'refused: ...', or by what an equality is broken."""
    return {
        str(list(cut)): _verdict(model, cut, folder / f"cut{at}") for at, cut in enumerate(cuts)
    }


def _verdict(model: Any, cut: Sequence[int], folder: Any) -> str:
    try:
        broken = identity(model, cut) or restored(model, cut)
    except UnsupportedArchitecture as error:
        return f"refused: {error}"
    if broken:
        return broken
    try:
        return reload(model, cut, folder) or steps(model, cut) or cache(model, cut) or "equal"
    except UnsupportedArchitecture as error:
        return f"cannot be saved: {error}"


def _new(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of fields that no configuration of the type has; layers' numbers are no names."""
    names = []
    for name, value in after.items():
        if name not in before and not str(name).isdigit():
            names.append(str(name))
        elif isinstance(value, dict) and isinstance(before.get(name), dict):
            names += [f"{name}.{part}" for part in _new(before[name], value)]
    return names


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Fields that differ; a number that was multiplied twice may by a rounding."""
    names = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, float) and isinstance(b, float) and abs(a - b) <= 1e-9 * abs(a):
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            names += [f"{name}.{part}" for part in _differing(a, b)]
        elif a != b:
            names.append(name)
    return names
