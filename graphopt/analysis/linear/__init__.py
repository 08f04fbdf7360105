"""One view of Conv, ConvTranspose, Gemm and MatMul as a convolution.

A rewrite meets a `Linear` and never asks which operator it is: weights are [out, in/group, *kernel], a bias
is [out], and a Gemm or a MatMul is a convolution without spatial axes. `rewrites.builder` goes the other way.
"""

from __future__ import annotations

from graphopt.analysis.linear.cost import linear_cost
from graphopt.analysis.linear.form import Form
from graphopt.analysis.linear.operator import Linear
from graphopt.analysis.linear.view import FREEZE, view, why_no_constant

__all__ = ["FREEZE", "Form", "Linear", "linear_cost", "view", "why_no_constant"]
