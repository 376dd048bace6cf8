"""A device without a GPU: tensors that say they are `elsewhere`, and are computed on the CPU.

What CUDA refuses is refused here too: operations on tensors of both places, `.numpy()`, and random
numbers from a generator of the other place. So most mistakes with devices are found without a
GPU; what needs a real one is speed, memory, and what CUDA's own kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "elsewhere"
aten = torch.ops.aten
# Their second argument, indices, may be on the CPU where the first is not; never the other way.
INDEXING = {
    *(aten.index.Tensor, aten.index_put.default, aten.index_put_.default),
    *(aten._index_put_impl_.default, aten._unsafe_index.Tensor),
}
COPYING = {aten.copy_.default, aten.copy.default}


class There(Tensor):
    """A tensor that is elsewhere, around the one on the CPU that is computed with."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        found = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
        )
        found.here = here
        return found

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"There({self.here!r})"

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: Tensor) -> None:
        """What modules do to their parameters when they are brought to a place or a precision."""
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.here = _unwrapped(value)

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Elsewhere(TorchDispatchMode):
    """Sends what is made elsewhere, or brought there, on its way."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    looked_at = (args[0], *args[2:]) if func in INDEXING else args
    if func in INDEXING and _stays(args[0]) and any(isinstance(t, There) for t in _tensors(args)):
        raise RuntimeError(f"{func}: indices elsewhere for a tensor on the CPU")
    tensors = [*_tensors(looked_at), *_tensors(kwargs.values())]
    there = any(isinstance(t, There) for t in tensors)
    if there and func not in COPYING and any(_stays(t) for t in tensors):
        raise RuntimeError(f"{func}: tensors on the CPU and elsewhere")
    asked = kwargs.get("device")
    where = there if asked is None else torch.device(asked).type == NAME
    if kwargs.get("generator") is not None and where:
        raise RuntimeError(f"{func}: a generator on the CPU for a tensor elsewhere")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu") if where else asked}
    found = func(*_each(args, _unwrapped), **{k: _each(v, _unwrapped) for k, v in kwargs.items()})
    if func._schema.name.endswith("_") and isinstance(args[0], Tensor):  # in place
        return args[0]
    return _each(found, There) if where else found


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with the tensors in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_each(part, change) for part in value)
    return value


def _stays(tensor: Tensor) -> bool:
    """Whether a tensor is on the CPU and CUDA would not take it: numbers are taken."""
    return not isinstance(tensor, There) and tensor.ndim > 0


def _unwrapped(value: Tensor) -> Tensor:
    return value.here if isinstance(value, There) else value


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within the block there is the device; it cannot be taken back from torch afterwards."""
    # torch keeps, by identity, the functions that `with torch.device(…)` speaks to.
    torch.utils._device._device_constructors()
    if not hasattr(torch, NAME):
        backend_registration._setup_privateuseone_for_python_backend(NAME)
    with (
        _files(),
        mock.patch.object(torch, "tensor", _by_the_cpu(torch.tensor)),
        mock.patch.object(torch, "as_tensor", _by_the_cpu(torch.as_tensor)),
        mock.patch.object(Tensor, "new_tensor", _new_tensor),
        _Elsewhere(),
    ):
        yield


@contextmanager
def _files() -> Iterator[None]:
    """The libraries write their models from the CPU: they look at tensors' memory."""
    from diffusers.models.modeling_utils import ModelMixin
    from transformers import PreTrainedModel

    with ExitStack() as stack:
        for base in (ModelMixin, PreTrainedModel):
            written = _writing(base.save_pretrained)
            stack.enter_context(mock.patch.object(base, "save_pretrained", written))
        yield


def _writing(write: Callable[..., None]) -> Callable[..., None]:
    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
        place = self.device
        write(self.to("cpu"), *args, **kwargs)
        self.to(place)

    return save_pretrained


def _by_the_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What makes tensors of Python's numbers; torch asks no dispatcher there."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        found = make(data, *args, **kwargs)
        return found if device is None else found.to(device)

    return made


def _new_tensor(like: Tensor, data: Any, **kwargs: Any) -> Tensor:
    return torch.tensor(data, **{"dtype": like.dtype, "device": like.device, **kwargs})
