"""What can go wrong, as sentences.

    GatewiseError
    ├── InvalidInput          a value you gave cannot be used: shape, dtype, NaN, range, a missing or broken file
    ├── UnsupportedNetwork    a method needs affine pieces that this network does not have
    └── UnsupportedProblem    a method or set cannot do what was asked of it; the message names what can

Not finding a point is never an exception: it is a `Status` of the result. Every message is one sentence that names
the problem and the remedy; the command line prints it and leaves with exit code 2.
"""


class GatewiseError(Exception):
    """Base of every error that gatewise raises on purpose."""


class InvalidInput(GatewiseError, ValueError):
    """A value given by the caller cannot be used."""


class UnsupportedNetwork(GatewiseError):
    """The network is not piecewise linear where a method needs it to be."""


class UnsupportedProblem(GatewiseError):
    """This set, objective or method cannot answer what was asked of it."""


class TrainingModeWarning(UserWarning):
    """The module was handed over in training mode; it runs in evaluation mode and is put back afterwards."""
