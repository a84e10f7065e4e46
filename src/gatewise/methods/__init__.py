"""The methods: a choice of gate rule plus a loop each."""

from gatewise.methods.activation_descent import ActivationDescent
from gatewise.methods.activation_descent_reference import ActivationDescentReference
from gatewise.methods.adagrad import Adagrad
from gatewise.methods.adam import Adam
from gatewise.methods.admm import Admm
from gatewise.methods.augmented_lagrangian import AugmentedLagrangian
from gatewise.methods.auto_projected_gradient import AutoProjectedGradient
from gatewise.methods.base import Method, Start
from gatewise.methods.carlini_wagner import CarliniWagner
from gatewise.methods.cross_entropy_method import CrossEntropyMethod
from gatewise.methods.decoupled_direction_norm import DecoupledDirectionNorm
from gatewise.methods.deepfool import DeepFool
from gatewise.methods.fast_adaptive_boundary import FastAdaptiveBoundary
from gatewise.methods.fast_minimum_norm import FastMinimumNorm
from gatewise.methods.gate_annealing import GateAnnealing
from gatewise.methods.gate_reaching_descent import GateReachingDescent
from gatewise.methods.gauss_newton import GaussNewton
from gatewise.methods.gradient_descent import GradientDescent
from gatewise.methods.limited_memory import LimitedMemory
from gatewise.methods.local_milp import LocalMilp
from gatewise.methods.perturbed_gradient_descent import PerturbedGradientDescent
from gatewise.methods.projected_gradient import ProjectedGradient
from gatewise.methods.random_search import RandomSearch
from gatewise.methods.region_walk import RegionWalk
from gatewise.methods.square import Square

__all__ = [
    "ActivationDescent",
    "ActivationDescentReference",
    "Adagrad",
    "Adam",
    "Admm",
    "AugmentedLagrangian",
    "AutoProjectedGradient",
    "CarliniWagner",
    "CrossEntropyMethod",
    "DecoupledDirectionNorm",
    "DeepFool",
    "FastAdaptiveBoundary",
    "FastMinimumNorm",
    "GateAnnealing",
    "GateReachingDescent",
    "GaussNewton",
    "GradientDescent",
    "LimitedMemory",
    "LocalMilp",
    "Method",
    "PerturbedGradientDescent",
    "ProjectedGradient",
    "RandomSearch",
    "RegionWalk",
    "Square",
    "Start",
]
