"""A device that is not there: tensors with real numbers, in the CPU's memory, that say `pretend`.

What mixes them with the CPU's tensors raises, as CUDA does, and what would wait for a GPU is
counted by the line that asked for it. PyTorch's Python backend (experimental in 2.13) gives
autograd a device guard; a wrapper subclass holds the numbers.

It changes the whole process: `tests/pretended/conftest.py` installs it for the tests there, which
run by themselves (`make test-device`).
"""

import contextlib
import sys
import traceback
from collections import Counter, OrderedDict

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
COUNT = 2
"""Devices: pretend:0 and pretend:1."""

WAITS: Counter[str] = Counter()
"""How often the host waited for a device: operation, and the line that asked for it."""

WAITING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::masked_select", "aten::equal", "aten::is_nonzero",
    "aten::bincount",
}  # fmt: skip
"""Operations whose result the host needs."""

COPIES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize"}

INDEXED = {
    "aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_",
    "aten::_unsafe_index",
}  # fmt: skip
"""CUDA takes indices in the CPU's memory, and waits while it copies them."""

PRODUCTS = (
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention",
)  # fmt: skip
SUMS = (
    "nll_loss", "cross_entropy_loss", "log_softmax.int", "softmax.int", "kl_div", "norm.Scalar",
    "pow.Tensor_Scalar", "rsqrt", "sum", "sum.dim_IntList", "cdist", "exp", "log", "cumsum", "prod",
)  # fmt: skip
"""CUDA's autocast computes products in 16 bits, and sums in float32."""


class MixedDevicesError(RuntimeError):
    """An operation on tensors of several devices."""


class Pretend(torch.Tensor):
    """A tensor on a pretended device; `elem` holds its numbers."""

    @staticmethod
    def __new__(cls, elem, device=None, requires_grad=False):
        if device is None:  # as accelerate makes a parameter of the same kind
            return torch.nn.Parameter(elem, requires_grad=requires_grad)
        return torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, device=device, requires_grad=False,
        )  # fmt: skip

    def __init__(self, elem, device=None, requires_grad=False):
        if device is not None:
            self.elem = elem

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):
        WAITS[f"tolist {_line()}"] += 1
        return self.elem.tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert a tensor of a device to numpy: use .cpu() first")

    __array__ = numpy

    def __repr__(self):
        return f"Pretend({self.elem})"


Pretend.data = property(
    lambda self: self.detach(),
    lambda self, new: (
        torch.Tensor.data.__set__(self, new),
        isinstance(new, Pretend) and setattr(self, "elem", new.elem),
    ),
)


def install() -> torch.device:
    """Make `pretend` a device of PyTorch, and of the libraries that this project calls."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    torch._C._set_only_lift_cpu_tensors(True)
    kept = [library, *_autocast()]  # PyTorch forgets what a library registers when that goes
    _Module.kept = kept
    # Wrapper subclasses know no inference mode.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()
    _patch_to()
    _patch_attention()
    _patch_saving()
    return torch.device(NAME, 0)


class _Module(backend_registration._DummyBackendModule):
    """What `torch.pretend` has, as `torch.cuda`."""

    def device_count(self):
        return COUNT

    def is_bf16_supported(self, *_):
        return True

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, *_):
        return torch.get_rng_state()

    def set_rng_state(self, state, *_):
        torch.set_rng_state(state)

    def get_rng_state_all(self):
        return [torch.get_rng_state()]

    def set_rng_state_all(self, states):
        torch.set_rng_state(states[0])

    def memory_allocated(self, *_):
        return 0

    max_memory_allocated = memory_allocated

    def mem_get_info(self, *_):
        return 2**34, 2**34

    def device(self, *_):
        return contextlib.nullcontext()

    def set_device(self, *_):
        pass

    synchronize = empty_cache = reset_peak_memory_stats = set_device


def _line() -> str:
    """Return the innermost line of this project, or else of a library, that is being run."""
    frames = traceback.extract_stack()[-4::-1]
    for frame in frames:
        if "/layerprune/" in frame.filename:
            return f"{frame.filename.rpartition('/layerprune/')[2]}:{frame.lineno}"
    for frame in frames:
        if "site-packages/torch/" not in frame.filename and NAME not in frame.filename:
            return f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno}"
    return "?"


def _run(func, args, kwargs):
    """Run an operation on the numbers; refuse what CUDA refuses."""
    name, leaves = func._schema.name, tree_leaves((args, kwargs))
    mine = [leaf for leaf in leaves if isinstance(leaf, Pretend)]
    others = [
        leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Pretend)
    ]
    if name not in COPIES:
        _refuse_mixture(func, args, mine, others)
    if mine and name in WAITING:
        WAITS[f"{name} {_line()}"] += 1
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    _count_copy(name, args, asked)
    target = asked or (mine[0].device if mine else None)
    kwargs_cpu = dict(kwargs)
    if asked is not None and asked.type == NAME:
        kwargs_cpu["device"] = torch.device("cpu")
    if kwargs_cpu.get("pin_memory"):
        kwargs_cpu["pin_memory"] = False
    plain_args, plain_kwargs = tree_map(_elem, args), tree_map(_elem, kwargs_cpu)
    if name == "aten::histc" and not plain_args[0].is_floating_point():
        # CUDA counts integers, a CPU does not.
        dtype = plain_args[0].dtype
        out = func(plain_args[0].float(), *plain_args[1:], **plain_kwargs).to(dtype)
    else:
        out = func(*plain_args, **plain_kwargs)
    if name == "aten::_to_copy" and isinstance(out, torch.Tensor) and out.numel():
        source = _elem(args[0])
        crosses = args[0].device.type != (target.type if target is not None else "cpu")
        if crosses and out.data_ptr() == source.data_ptr():
            out = out.clone()  # another device has other memory
    if target is None or target.type != NAME:
        return args[0] if name == "aten::copy_" else out
    if target.index is None:
        target = torch.device(NAME, 0)
    wrapped = tree_map(lambda leaf: _wrapped(leaf, target), out)
    if mine or func._schema.is_mutable:  # in place, the same object is returned
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
    return wrapped


def _elem(leaf):
    return leaf.elem if isinstance(leaf, Pretend) else leaf


def _wrapped(leaf, device):
    plain_tensor = isinstance(leaf, torch.Tensor) and not isinstance(leaf, Pretend)
    return Pretend(leaf, device) if plain_tensor else leaf


def _refuse_mixture(func, args, mine, others) -> None:
    """Raise for tensors of several devices, except a CPU's tensors without a dimension."""
    large = [tensor for tensor in mine if tensor.dim() > 0]
    if len({str(tensor.device) for tensor in large}) > 1:
        raise MixedDevicesError(f"{func}: {[str(tensor.device) for tensor in large]} at {_line()}")
    foreign = [
        tensor for tensor in others if mine and tensor.dim() > 0 and tensor.device.type != "meta"
    ]
    if foreign and func._schema.name in INDEXED and isinstance(args[0], Pretend):
        WAITS[f"index on the CPU {_line()}"] += len(foreign)
    elif foreign:
        raise MixedDevicesError(f"{func}: {NAME} with cpu {tuple(foreign[0].shape)} at {_line()}")


def _count_copy(name, args, asked) -> None:
    if name == "aten::_to_copy":
        source, target = args[0].device, asked or args[0].device
    elif name == "aten::copy_":
        source, target = args[1].device, args[0].device
    else:
        return
    if source.type != target.type:
        WAITS[f"{source.type} to {target.type} {_line()}"] += 1


def _autocast() -> list[torch.library.Library]:
    """Register autocast for the device, as CUDA's."""
    key = "AutocastPrivateUse1"
    others, casts = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, key)
    excluded = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def kernel(op, fixed):
        def cast(leaf, dtype):
            floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
            if floating and leaf.device.type == NAME and leaf.dtype is not torch.float64:
                return leaf.to(dtype)
            return leaf

        def run(*args, **kwargs):
            with torch._C._ExcludeDispatchKeyGuard(excluded):
                dtype = fixed or torch.get_autocast_dtype(NAME)
                args, kwargs = tree_map(lambda leaf: cast(leaf, dtype), (args, kwargs))
                return op(*args, **kwargs)

        return run

    for names, fixed in ((PRODUCTS, None), (SUMS, torch.float32)):
        for name in names:
            base, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, base), overload or "default", None)
            if op is not None:
                casts.impl(name if overload else base, kernel(op, fixed), key)
    return [others, casts]


def _patch_to() -> None:
    """Give modules that move to another kind of device new parameters."""
    real = torch.nn.Module.to

    def to(self, *args, **kwargs):
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        first = next(self.parameters(), None)
        away = device is not None and first is not None and first.device.type != device.type
        torch.__future__.set_overwrite_module_params_on_conversion(away)
        try:
            return real(self, *args, **kwargs)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)

    torch.nn.Module.to = to


def _patch_attention() -> None:
    """Refuse a mask of another type than the queries: cuDNN misreads it (PyTorch PR 191612)."""
    real = torch.nn.functional.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, *args, **kwargs):
        if query.device.type == NAME and attn_mask is not None:
            assert attn_mask.dtype in (torch.bool, query.dtype), (attn_mask.dtype, query.dtype)
        return real(query, key, value, attn_mask, *args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = attention


def plain(thing):
    """Return the same with the CPU's tensors in place of pretended ones, to be written to disk."""
    if isinstance(thing, Pretend):
        return thing.detach().elem.clone()
    if isinstance(thing, dict):
        made = {name: plain(value) for name, value in thing.items()}
        return OrderedDict(made) if isinstance(thing, OrderedDict) else made
    if isinstance(thing, list | tuple) and not hasattr(thing, "_fields"):
        return type(thing)(map(plain, thing))
    return thing


def _patch_saving() -> None:
    """Let PyTorch and safetensors write pretended tensors: they read a tensor's memory."""
    import peft  # noqa: F401 - its modules hold functions of safetensors
    import safetensors.torch

    real_save, real_file = torch.save, safetensors.torch.save_file
    real_pointer = safetensors.torch.storage_ptr

    def save_file(tensors, *args, **kwargs):
        return real_file(plain(tensors), *args, **kwargs)

    torch.save = lambda thing, *args, **kwargs: real_save(plain(thing), *args, **kwargs)
    replaced = {
        real_file: save_file,
        real_pointer: lambda tensor: real_pointer(_elem(tensor)),
    }
    for module in list(sys.modules.values()):
        for name in ("save_file", "safe_save_file", "storage_ptr"):
            value = vars(module).get(name) if module is not None else None
            if callable(value) and value in replaced:
                setattr(module, name, replaced[value])
