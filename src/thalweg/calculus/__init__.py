"""Derivatives, looked at: matrices and Jacobians, forward and reverse recursions, checks of gradients, expected steps, convexity."""

from thalweg.calculus.command import check_object
from thalweg.calculus.compare import compare_derivatives
from thalweg.calculus.convexity import Convexity, Witness, is_convex
from thalweg.calculus.differences import differences
from thalweg.calculus.expected import ExpectedStep, expected_step
from thalweg.calculus.gradcheck import Coordinate, GradientCheck, gradcheck
from thalweg.calculus.jacobian import chain, jacobian
from thalweg.calculus.matrix import hadamard, kron, unvec, vec
from thalweg.calculus.progressive import Layer, Progressive, Sweep

__all__ = [
    "Convexity",
    "Coordinate",
    "ExpectedStep",
    "GradientCheck",
    "Layer",
    "Progressive",
    "Sweep",
    "Witness",
    "chain",
    "check_object",
    "compare_derivatives",
    "differences",
    "expected_step",
    "gradcheck",
    "hadamard",
    "is_convex",
    "jacobian",
    "kron",
    "unvec",
    "vec",
]
