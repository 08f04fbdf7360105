"""One view of Conv, ConvTranspose, Gemm and MatMul as a convolution.

A rewrite meets a `Linear` and never asks which operator it is: weights are [out, in/group, *kernel], a bias
is [out], and a Gemm or a MatMul is a convolution without spatial axes. A `Builder` goes the other way.
"""

from __future__ import annotations

from graphopt.conv.builder import Builder
from graphopt.conv.costs import linear_cost
from graphopt.conv.form import Form
from graphopt.conv.linear import Linear
from graphopt.conv.normal import FREEZE, view, why_no_constant

__all__ = ["FREEZE", "Builder", "Form", "Linear", "linear_cost", "view", "why_no_constant"]
