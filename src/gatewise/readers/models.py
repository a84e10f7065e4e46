"""Networks by the names that the command line takes."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from gatewise import zoo
from gatewise.errors import InvalidInput
from gatewise.readers.exported_program import read_exported
from gatewise.readers.onnx import read_onnx
from gatewise.readers.weights import read_weights

_WAYS = "zoo:NAME, MODULE:CALLABLE, a file ending in .onnx, or a torch.export program ending in .pt2"


def read_model(name: str, weights: str | Path | None = None, seed: int = 0) -> nn.Module:
    """The network that `name` means, on the CPU unless its file or callable says otherwise.

    Args:
        name: `zoo:NAME` (see `gatewise.zoo.NAMES`); `MODULE:CALLABLE`, importable from PYTHONPATH or the current
            folder, which is called without arguments and returns an `nn.Module`; or the path of an `.onnx` or `.pt2`
            file.
        weights: a `.pt`, `.pth` or `.safetensors` state dict for the first two; the files bring their own.
        seed: of the zoo's draw where there are no weights; a callable draws as it likes.

    Returns:
        The module: from the zoo and from files in evaluation mode, from a callable in the mode that it came in.

    Raises:
        InvalidInput: whatever is wrong with either, as one sentence.
    """
    suffix = Path(name).suffix.lower()
    if name.startswith("zoo:"):
        return zoo.build(name.removeprefix("zoo:"), None if weights is None else read_weights(weights), seed)
    if suffix in (".onnx", ".pt2"):
        if weights is not None:
            raise InvalidInput(f"{name} brings its own weights; leave out --weights.")
        return read_onnx(name) if suffix == ".onnx" else read_exported(name)
    if suffix in (".pt", ".pth", ".safetensors"):
        raise InvalidInput(
            f"{name} holds weights, not a network; name the network as zoo:NAME or MODULE:CALLABLE "
            f"and give the file as --weights {name}."
        )
    if ":" not in name:
        raise InvalidInput(f"{name!r} is not a model; name one as {_WAYS}.")
    module = _called(name)
    if weights is not None:
        zoo.load_into(module, read_weights(weights), name)
    return module


def _called(name: str) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise InvalidInput(f"{name!r} is not a model; name one as {_WAYS}.")
    with _current_folder_first():
        try:
            importlib.invalidate_caches()  # the file may be younger than Python's listing of the folder
            found: object = importlib.import_module(module_name)
        except ModuleNotFoundError as problem:
            if problem.name is not None and f"{module_name}.".startswith(f"{problem.name}."):
                raise InvalidInput(
                    f"There is no module {problem.name!r} for {name}; put it in the current folder or on PYTHONPATH."
                ) from problem
            raise InvalidInput(f"Importing {module_name} for {name} failed: {problem}.") from problem
        except (Exception, SystemExit) as problem:
            raise InvalidInput(f"Importing {module_name} for {name} failed: {_said(problem)}.") from problem
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise InvalidInput(f"The module {module_name} has no {attribute!r}; check the name after the colon.")
            found = getattr(found, part)
        if isinstance(found, nn.Module) or not callable(found):
            raise InvalidInput(
                f"{name} is a {type(found).__name__}; name a function or class that returns the network "
                "when it is called without arguments."
            )
        try:
            module = found()
        except (Exception, SystemExit) as problem:
            raise InvalidInput(f"Calling {name} without arguments failed: {_said(problem)}.") from problem
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"{name} must return a torch.nn.Module, got {type(module).__name__}.")
    return module


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """The current folder first on the import path; also while the callable runs, which may import as it goes."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's module may have taken it off itself
            sys.path.remove(folder)


def _said(problem: BaseException) -> str:
    """An exception as part of one sentence: its type, and its message on one line without a final full stop."""
    message = " ".join(str(problem).split()).rstrip(".")
    return f"{type(problem).__name__}: {message}" if message else type(problem).__name__
