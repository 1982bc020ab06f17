"""A GPU that is pretended: what would fail on a real one for being on the wrong device fails here too.

Its tensors compute on the CPU. They say that they are on CUDA, give their values only when asked to move, and refuse to
meet a tensor of the CPU, with CUDA's two exceptions: a tensor without dimensions, and the index of a tensor on the GPU.
What it cannot tell: anything about CUDA's own arithmetic, memory or speed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
VALUES = {Tensor.numpy, Tensor.__array__}
MOVING = {Tensor.to, Tensor.cpu, Tensor.new_tensor}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
PATCHED = {
    "torch.cuda.is_available": lambda: True,
    "torch.cuda.mem_get_info": lambda _: (1 << 40, 1 << 40),
    "torch.cuda.get_device_name": lambda _: "a pretended GPU",
    "torch.cuda.max_memory_allocated": lambda _: 0,
    "torch.optim.Optimizer._accelerator_graph_capture_health_check": lambda _: None,
}
"""What would ask the driver."""


class OnGpu(Tensor):
    """A tensor of the pretended GPU."""

    device, is_cuda, is_cpu = GPU, True, False

    @classmethod
    def __torch_function__(cls, func: Callable, types: Iterable[type], args: Sequence = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Watched(TorchFunctionMode):
    """Sees calls that make a tensor on a device too, which no argument tells."""

    def __torch_function__(self, func: Callable, types: Iterable[type], args: Sequence = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[None]:
    """Stages and functions find a GPU."""
    with ExitStack() as stack:
        for name, found in PATCHED.items():
            stack.enter_context(patch(name, found))
        stack.enter_context(patch.dict(os.environ, {"SAMERGING_DEVICE": "cuda"}))
        stack.enter_context(_Watched())
        yield


def _computed(func: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    ours = [one for one in _tensors((args, kwargs)) if isinstance(one, OnGpu)]
    if func in VALUES and ours:
        raise TypeError(f"{func.__name__} of a tensor on {GPU}; move it to the CPU first")
    if func in MOVING:
        on_gpu = _goes_to_gpu(func, args, kwargs)
        args = [CPU if isinstance(one, str | torch.device) else one for one in args]
    elif kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == "cuda"
    elif func is Tensor.copy_:
        on_gpu = isinstance(args[0], OnGpu)
    else:
        on_gpu = bool(ours)
        if on_gpu:
            _together(func, args, kwargs)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": CPU}
    with torch._C.DisableTorchFunction():
        found = func(*args, **kwargs)
    return found if isinstance(found, torch.Size) else tree_map(lambda one: _placed(one, on_gpu), found)


def _together(func: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> None:
    into = func in INDEXING and isinstance(args[0], OnGpu)
    operands = (args[0], *args[2:]) if into else args
    strangers = [one for one in _tensors((operands, kwargs)) if not isinstance(one, OnGpu) and one.ndim]
    if strangers:
        shapes = ", ".join(str([*one.shape]) for one in strangers)
        raise RuntimeError(f"{func.__name__}: tensors on {GPU} and one on the CPU of shape {shapes}")


def _goes_to_gpu(func: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> bool:
    if func is Tensor.cpu:
        return False
    targets = [one for one in (*args[1:], *kwargs.values()) if isinstance(one, str | torch.device)]
    like = [one for one in args[1:] if isinstance(one, Tensor)] or [args[0]]
    return torch.device(targets[0]).type == "cuda" if targets else isinstance(like[0], OnGpu)


def _placed(value: Any, on_gpu: bool) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, OnGpu) == on_gpu:
        return value
    return value.as_subclass(OnGpu if on_gpu else Tensor)


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]
