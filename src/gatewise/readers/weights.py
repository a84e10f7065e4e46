"""State dicts from `.pt`, `.pth` and `.safetensors` files."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.readers.paths import require_file


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from a file: tensors on the CPU, dtypes as stored, by name.

    `.pt` and `.pth` are read with `torch.load(weights_only=True)`, so that no code in the file runs; `.safetensors`
    holds nothing but tensors anyway.

    Raises:
        InvalidInput: a missing or broken file, another extension, Python objects besides tensors, or anything but one
            flat dictionary from names to tensors.
    """
    path = require_file(path, "weights file")
    match path.suffix.lower():
        case ".safetensors":
            return _safetensors(path)
        case ".pt" | ".pth":
            return _flat(_torch(path), path)
        case _:
            raise InvalidInput(f"The weights file {path} must end in .pt, .pth or .safetensors.")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError) as problem:
        raise InvalidInput(
            f"The weights file {path} is truncated or not a safetensors file ({problem}); fetch or save it again."
        ) from problem


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on loading without weights_only, which is not followed here
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as problem:
        raise InvalidInput(
            f"The weights file {path} holds Python objects besides tensors, which could run code and are not read; "
            "save the state dict alone, with torch.save(module.state_dict(), file)."
        ) from problem
    except Exception as problem:  # torch.load raises whatever its parsers raise: RuntimeError, EOFError, KeyError, …
        if "TorchScript" in str(problem):
            raise InvalidInput(
                f"The weights file {path} is a TorchScript program; save its state dict with "
                "torch.save(program.state_dict(), file)."
            ) from problem
        raise InvalidInput(
            f"The weights file {path} is truncated or not a PyTorch file; fetch it again, or save it again with "
            "torch.save(module.state_dict(), file)."
        ) from problem


def _flat(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise InvalidInput(
            f"The weights file {path} holds a {type(content).__name__}, not a state dict; save it with "
            "torch.save(module.state_dict(), file)."
        )
    others = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    nested = [key for key in others if isinstance(content[key], dict)]
    if nested:
        raise InvalidInput(
            f"The weights file {path} is not a flat state dict: it holds a dictionary at {nested[0]!r}; "
            f"save that one alone, with torch.save(checkpoint[{nested[0]!r}], file)."
        )
    if others or not content:
        found = f"a {type(content[others[0]]).__name__} at {others[0]!r}" if others else "nothing"
        raise InvalidInput(
            f"The weights file {path} is not a state dict (names to tensors): it holds {found}; save it with "
            "torch.save(module.state_dict(), file)."
        )
    return {key: value.detach() for key, value in content.items()}
