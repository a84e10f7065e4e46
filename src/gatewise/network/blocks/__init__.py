"""A network's affine blocks, each with the solves that operator splitting asks for."""

from gatewise.network.blocks.activation import Activation
from gatewise.network.blocks.block import Block
from gatewise.network.blocks.graph_projection import nearest_on_graph
from gatewise.network.blocks.quadratic import LINE_SEARCH, minimise_in_box, minimise_in_set
from gatewise.network.blocks.split_network import SplitNetwork, split_network

__all__ = [
    "LINE_SEARCH",
    "Activation",
    "Block",
    "SplitNetwork",
    "minimise_in_box",
    "minimise_in_set",
    "nearest_on_graph",
    "split_network",
]
