"""Files to networks and images: everything that a user can name on the command line."""

from gatewise.readers.datasets import Images, read_images
from gatewise.readers.exported_program import read_exported
from gatewise.readers.models import read_model
from gatewise.readers.onnx import read_onnx
from gatewise.readers.weights import read_weights

__all__ = ["Images", "read_exported", "read_images", "read_model", "read_onnx", "read_weights"]
