"""Checkpoints as named arrays: safetensors, or a PyTorch state dict."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screc.errors import ConfigError, ToolchainError
from screc.weights import FLOAT_TYPES, PACKED_TYPE, STORED_TYPES, mapped_tensor, tensor_entries

ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
"""How PyTorch's files begin: since version 1.6, and before."""

TORCH_TYPES = {
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.uint8": "U8",
}
"""Types that are imported, by PyTorch's and safetensors' names."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint.

    ``type`` is safetensors' name of its type; ``values`` are as numpy maps it, bfloat16 as its bit
    pattern.
    """

    name: str
    type: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.values.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds floats; else packed rows."""
        return self.type in FLOAT_TYPES


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Open a checkpoint; large tensors are mapped, not read, where the file allows it.

    Raises
    ------
    ConfigError
        If it cannot be read or a tensor has a type that is not imported; names file and tensor.
    ToolchainError
        If it is a PyTorch file and PyTorch is not installed.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error
    if magic.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return _read_torch(path)
    tensors = {}
    for name, entry in tensor_entries(path).items():
        if entry.dtype not in STORED_TYPES:
            raise _wrong_type(path, name, entry.dtype)
        tensors[name] = Tensor(name, entry.dtype, mapped_tensor(path, entry))
    return tensors


def _wrong_type(path: Path, name: str, type_: str) -> ConfigError:
    return ConfigError(
        f"tensor {name!r} must be one of {', '.join(FLOAT_TYPES)} or packed rows "
        f"({PACKED_TYPE}), not {type_}",
        path=path,
    )


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        import torch
    except ImportError as error:
        raise ToolchainError(
            "torch",
            f"reads {path.name}; get it with `pip install 'screc[torch]'`, or save the state dict "
            "as safetensors",
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters ends in an error
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # a file of the old layout cannot be mapped
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways within PyTorch
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"must be a state dict that PyTorch reads with weights_only=True: {reason}", path=path
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]  # as facebookresearch/dlrm saves it
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"must hold a state dict, not {type(loaded).__name__}", path=path)
    tensors = {}
    for key, value in loaded.items():
        name, type_ = str(key), TORCH_TYPES.get(str(getattr(value, "dtype", "")))
        if type_ is None:
            raise _wrong_type(path, name, str(getattr(value, "dtype", type(value).__name__)))
        dense = value.detach().contiguous()
        if type_ == "BF16":
            dense = dense.view(torch.int16)
        tensors[name] = Tensor(name, type_, dense.numpy().view(np.dtype(STORED_TYPES[type_])))
    return tensors
