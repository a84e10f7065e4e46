"""Files to networks and images, names to devices: everything that a user can name on the command line."""

from gatewise.readers.datasets import Images, read_images
from gatewise.readers.devices import read_device
from gatewise.readers.exported_program import read_exported
from gatewise.readers.models import read_model
from gatewise.readers.onnx import read_onnx
from gatewise.readers.proved_distances import ProvedDistances, read_proved_distances
from gatewise.readers.weights import read_weights

__all__ = [
    "Images",
    "ProvedDistances",
    "read_device",
    "read_exported",
    "read_images",
    "read_model",
    "read_onnx",
    "read_proved_distances",
    "read_weights",
]
