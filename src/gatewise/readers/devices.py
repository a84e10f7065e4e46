"""Devices by the names that the command line takes."""

import torch

from gatewise.errors import InvalidInput


def read_device(name: str) -> torch.device:
    """The device that `name` means: `auto` (an accelerator by CUDA where there is one, else the CPU), or PyTorch's own
    names.

    Raises:
        InvalidInput: an unknown name, or a device that cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(f"The device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
