"""Checkpoints: one safetensors file, replaced as a whole, never unpickled.

Tensors keep their dotted names; everything else (step, scalars of the optimiser, the run's
configuration) is JSON in the file's metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.reading import parse_json

_META = "pds"
ANEW = "start the run anew without resume="


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes a checkpoint under a temporary name, flushes it to disk and renames it.

    Args:
        tensors: name → tensor on any device.
        meta: what JSON can hold.

    Raises:
        UserError: where the file cannot be written (full disk, no permission); the checkpoint
            that was there before is left as it was.
    """
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, str(temporary), metadata={_META: json.dumps(meta)})
        except SafetensorError as error:  # it wraps the system's error, a full disk among them
            raise OSError(str(error)) from error


def load_checkpoint(path: Path, what: str = ANEW) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_checkpoint` wrote; tensors on the CPU.

    what: to do where that fails, for the sentence.

    Raises:
        UserError: where the file is missing, truncated, not one of ours, or holds NaN.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; {what}")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = parse_json((file.metadata() or {})[_META])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if not isinstance(meta, dict):
            raise ValueError("its metadata is no object")
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise ValueError(f"its {name} holds NaN")
    except (SafetensorError, KeyError, ValueError, OSError, *_MISFITS) as error:
        raise UserError(
            f"the checkpoint {path} is corrupt or not written by pds ({_line(error)}); {what}"
        ) from error
    return tensors, meta


# What torch and Python raise where state has other names, shapes or types than are expected.
_MISFITS = (LookupError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError)


@contextmanager
def fits(path: Path, what: str = ANEW, wrong: str = "does not fit this run") -> Iterator[None]:
    """Around the use of a checkpoint: what it holds may be of another run.

    what, wrong: for the sentence.

    Raises:
        UserError: the block met other names, shapes or types than it expects.
    """
    try:
        yield
    except (UserError, *_MISFITS) as error:
        raise UserError(f"{path} {wrong}: {_line(error)}; {what}") from error


def _line(error: Exception) -> str:
    """An error's message in one line; torch's begin with a heading."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0] if error.args else 'such entry'}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines[1:] if len(lines) > 1 and lines[0].endswith(":") else lines
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def check_state(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Compares state with what it will replace; it may hold more.

    Raises:
        ValueError: a tensor is missing, or has another shape or kind of numbers.
    """
    for name, tensor in wanted.items():
        other = found.get(name)
        if other is None:
            raise ValueError(f"it has no {name}")
        if other.shape != tensor.shape:
            raise ValueError(f"its {name} is {list(other.shape)}, not {list(tensor.shape)}")
        if other.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"its {name} is {other.dtype}, not {tensor.dtype}")
        if bool(tensor.isfinite().all()) and not bool(other.isfinite().all()):
            raise ValueError(f"its {name} holds infinity")


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.`."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `with_prefix`: the tensors whose name begins with `prefix.`, without it."""
    start = f"{prefix}."
    return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}


def pack_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Splits an optimiser's `state_dict()` into tensors and JSON."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if torch.is_tensor(value):
                tensors[f"{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    return tensors, {"scalars": scalars, "param_groups": state["param_groups"]}


def unpack_optimizer(tensors: dict[str, Tensor], packed: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `pack_optimizer`."""
    state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in packed["scalars"].items()}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": packed["param_groups"]}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Brings an optimiser to the state that another of its settings had.

    Raises:
        ValueError: it was of other parameters, or its groups hold values of another kind.
    """
    own = optimizer.state_dict()["param_groups"]
    if len(own) != len(state["param_groups"]):
        raise ValueError("its optimiser has other groups of parameters")
    for mine, other in zip(own, state["param_groups"], strict=True):
        for name, value in mine.items():
            same = value == other[name] if name == "params" else _alike(value, other[name])
            if not same:
                raise ValueError(f"its optimiser's {name} is of another kind than {value!r}")
    for index, entry in state["state"].items():
        if not 0 <= index < sum(len(group["params"]) for group in own):
            raise ValueError("its optimiser moved other parameters")
        for name, value in entry.items():
            moments = torch.is_tensor(value) and value.ndim > 0
            if moments and not (value.is_floating_point() and bool(value.isfinite().all())):
                raise ValueError(f"its optimiser's {name} holds no finite numbers")
    optimizer.load_state_dict(state)


def _alike(mine: Any, other: Any) -> bool:
    """Whether two settings of an optimiser are of one kind: numbers, or lists of them, or equal."""
    if isinstance(mine, list | tuple) and isinstance(other, list | tuple):
        return len(mine) == len(other) and all(map(_alike, mine, other))
    if isinstance(mine, bool) or not isinstance(mine, int | float):
        return bool(mine == other)
    return isinstance(other, int | float) and math.isfinite(other)
