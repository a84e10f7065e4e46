"""State dicts into modules, with a sentence where they do not fit."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from gatewise.errors import InvalidInput

# Batch norm counts its training batches; evaluation does not read the count, and old files lack it.
_COUNTER = "num_batches_tracked"


def load_into(module: nn.Module, weights: Mapping[str, Tensor], what: str, ignored: Collection[str] = ()) -> None:
    """Copy `weights` into `module`; every key must find its tensor and every tensor its key.

    Values are converted to the dtype of the module's tensors. Batch norm's counters may be missing.

    Args:
        module: the network, changed in place (and untouched when this raises).
        weights: its state dict.
        what: the network's name, for the sentence.
        ignored: keys of `weights` that belong to something else and are left out.

    Raises:
        InvalidInput: keys missing or unexpected, a shape or kind of number that differs, a NaN or an infinity.
    """
    expected = module.state_dict()
    given = {key: tensor for key, tensor in weights.items() if key not in ignored}
    missing = [key for key in expected if key not in given and not key.endswith(_COUNTER)]
    unexpected = [key for key in given if key not in expected]
    if missing or unexpected:
        parts = [f"{word} {_first(keys)}" for word, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise InvalidInput(
            f"The weights are not those of {what}: {'; '.join(parts)}; give the state dict of that architecture."
        )
    for key, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise InvalidInput(f"The weights of {what} hold a {type(tensor).__name__} at {key}; it must be a tensor.")
        if tensor.shape != expected[key].shape:
            raise InvalidInput(
                f"The weights are not those of {what}: {key} has shape {tuple(tensor.shape)} where the network has "
                f"{tuple(expected[key].shape)}; give the state dict of that architecture."
            )
        if tensor.is_floating_point() != expected[key].is_floating_point() or tensor.is_complex():
            raise InvalidInput(
                f"The weights of {what} hold {tensor.dtype} at {key} where the network has {expected[key].dtype}; "
                "save them as floating-point numbers."
            )
        if not torch.isfinite(tensor).all():
            raise InvalidInput(f"The weights of {what} hold a NaN or an infinity at {key}; the file is of no use.")
    module.load_state_dict(given, strict=False)


def _first(keys: list[str], shown: int = 4) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
