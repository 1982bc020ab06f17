"""A pretended GPU: what fails on a real one because it is on the wrong device fails here too.

Its tensors compute on the CPU. They claim to be on CUDA, give their values only after a move, and refuse to meet a
tensor of the CPU, with CUDA's two exceptions: a tensor without dimensions, and the index of a tensor on the GPU.
It shows nothing about CUDA's own arithmetic, memory or speed.
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
"""Functions that would ask the driver, and their replacements."""


class OnGpu(Tensor):
    """A tensor of the pretended GPU."""

    device, is_cuda, is_cpu = GPU, True, False

    @classmethod
    def __torch_function__(cls, func: Callable, types: Iterable[type], args: Sequence = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Watched(TorchFunctionMode):
    """Intercepts calls that create a tensor too, in which no argument is on the GPU."""

    def __torch_function__(self, func: Callable, types: Iterable[type], args: Sequence = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[None]:
    """Let stages and functions find a GPU."""
    with ExitStack() as stack:
        for name, replacement in PATCHED.items():
            stack.enter_context(patch(name, replacement))
        stack.enter_context(patch.dict(os.environ, {"SAMERGING_DEVICE": "cuda"}))
        stack.enter_context(_Watched())
        yield


def _compute(func: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    ours = [value for value in _tensors((args, kwargs)) if isinstance(value, OnGpu)]
    if func in VALUES and ours:
        raise TypeError(f"{func.__name__} of a tensor on {GPU}; move it to the CPU first")
    if func in MOVING:
        on_gpu = _goes_to_gpu(func, args, kwargs)
        args = [CPU if isinstance(value, str | torch.device) else value for value in args]
    elif kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == "cuda"
    elif func is Tensor.copy_:
        on_gpu = isinstance(args[0], OnGpu)
    else:
        on_gpu = bool(ours)
        if on_gpu:
            _check_devices(func, args, kwargs)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": CPU}
    with torch._C.DisableTorchFunction():
        result = func(*args, **kwargs)
    return result if isinstance(result, torch.Size) else tree_map(lambda value: _place(value, on_gpu), result)


def _check_devices(func: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> None:
    into = func in INDEXING and isinstance(args[0], OnGpu)
    operands = (args[0], *args[2:]) if into else args
    strangers = [tensor for tensor in _tensors((operands, kwargs)) if not isinstance(tensor, OnGpu) and tensor.ndim]
    if strangers:
        shapes = ", ".join(str([*tensor.shape]) for tensor in strangers)
        raise RuntimeError(f"{func.__name__}: tensors on {GPU} and one on the CPU of shape {shapes}")


def _goes_to_gpu(func: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> bool:
    if func is Tensor.cpu:
        return False
    targets = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, str | torch.device)]
    like = [value for value in args[1:] if isinstance(value, Tensor)] or [args[0]]
    return torch.device(targets[0]).type == "cuda" if targets else isinstance(like[0], OnGpu)


def _place(value: Any, on_gpu: bool) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, OnGpu) == on_gpu:
        return value
    return value.as_subclass(OnGpu if on_gpu else Tensor)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
