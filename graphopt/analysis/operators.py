"""What is true of operators by their names alone: the sets that rewrites, costs and gradients share.

A set that stands elsewhere says what a module does with operators (rules of its own), not what they are.
"""

from __future__ import annotations

import onnx_ir as ir


def is_standard(node: ir.Node) -> bool:
    """Whether the operator is of the default domain; one of the same name elsewhere may do anything."""
    return node.domain == ""  # onnx_ir calls ai.onnx so, too


def _of(names: str) -> frozenset[str]:
    return frozenset(names.split())


# ---------------------------------------------------------------- on each element alone

FUNCTIONS = _of(
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish"
    " LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt"
    " Swish Tan Tanh ThresholdedRelu"
)
"""Operators that take each element of their only input to one of the same type, whatever its place."""
ALIKE = FUNCTIONS | {"Clip"}
"""The same, and Clip, whose other inputs are two numbers."""
UNARY = FUNCTIONS | {"Cast", "IsInf", "IsNaN", "Not"}
"""Operators on each element of their only input alone."""
ARITHMETIC = _of("Add Sub Mul Div")
BROADCASTING = ARITHMETIC | _of(
    "And Clip Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Or PRelu Pow Sum Where Xor"
)
"""Operators on the elements in one place of all their inputs."""
ELEMENTWISE = UNARY | BROADCASTING | {"Identity"}
"""Operators of which each output element depends on the elements at its own place only."""
IDEMPOTENT = _of("Relu Abs Ceil Floor Round Sign")
"""Operators that change nothing when they are applied a second time."""
NEUTRAL = {
    "Add": (0.0, True),
    "Sub": (0.0, False),
    "Mul": (1.0, True),
    "Div": (1.0, False),
    "Pow": (1.0, False),
}
"""Binary operators, with the operand that changes nothing and whether it may also be the first."""

WINDOWS = _of("AveragePool LpPool MaxPool")
"""Poolings of windows, whose sizes follow from kernel_shape, strides, pads, dilations and ceil_mode."""

# ---------------------------------------------------------------- under a scale c and a shift t

HOMOGENEOUS = _of("Relu LeakyRelu PRelu Abs")
"""f(c·x) = c·f(x) for c ≥ 0."""
MAXIMA = _of("MaxPool GlobalMaxPool")
"""f(c·x + t) = c·f(x) + t for c ≥ 0, where c and t are the same at all positions."""
MEANS = _of("AveragePool GlobalAveragePool ReduceMean")
"""f(c·x + t) = c·f(x) + t for any c, where c and t are the same at all positions."""
AFFINE = ARITHMETIC | {"BatchNormalization"}
"""x ↦ s·x + t, where the other operands are constants."""

# ---------------------------------------------------------------- over positions

POOLS = MAXIMA | _of("AveragePool GlobalAveragePool")
REDUCTIONS = _of("ReduceMean ReduceMax ReduceMin ReduceSum")

# ---------------------------------------------------------------- that move elements

VIEWS = _of("Reshape Flatten Squeeze Unsqueeze")
"""Operators that only rename the axes of what they read: the elements and their order stay."""
BLOCKS = _of("DepthToSpace SpaceToDepth")
"""Operators that exchange pixels and channels."""
FREE = (
    VIEWS
    | BLOCKS
    | _of("Identity Dropout BitCast")
    | _of("Transpose Concat Split Slice Pad CenterCropPad Crop Expand Tile Trilu ReverseSequence Compress")
    | _of("Gather GatherElements GatherND Scatter ScatterElements ScatterND TensorScatter")
    # created
    | _of("Constant ConstantOfShape Shape Size Range EyeLike OneHot")
    # sequences and optionals of tensors
    | _of("SequenceEmpty SequenceConstruct SequenceAt SequenceInsert SequenceErase SequenceLength")
    | _of("SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement")
    # the work is in the bodies, whose nodes are counted
    | _of("If Loop Scan SequenceMap")
)
"""The operators that only move, rename or create data.

Not among them: Cast, which computes a conversion of each element; Resize, which interpolates (its nearest
mode too, as it computes where each element comes from); the random generators. Dropout passes its input on,
as it does outside of training.
"""

NO_TENSORS = _of(
    "SequenceEmpty SequenceConstruct SequenceInsert SequenceErase SplitToSequence SequenceMap Optional ZipMap"
)
"""Operators that make sequences, optional values and maps."""

# ---------------------------------------------------------------- that sum up, and that decide

SUMS = _of(
    "Conv ConvTranspose ConvInteger DeformConv Gemm MatMul MatMulInteger QLinearConv QLinearMatMul Einsum"
    " LSTM GRU RNN"
)
"""Operators that sum up products of what they read, of weights mostly."""
RANKINGS = _of("TopK ArgMax ArgMin NonMaxSuppression NonZero Unique Hardmax")
"""Operators whose results are places in what they read, or an order of it."""
THRESHOLDS = _of("Greater GreaterOrEqual Less LessOrEqual Equal Sign Round Floor Ceil Cast")
"""Operators that jump at some number; a Cast does where it makes whole numbers or truth values."""

SIZED_BY = {
    **dict.fromkeys(_of("Compress Expand OneHot Reshape Split SplitToSequence TopK Upsample"), (1,)),
    **dict.fromkeys(_of("CenterCropPad SequenceAt SequenceErase"), (1,)),
    **dict.fromkeys(_of("ConstantOfShape HannWindow HammingWindow BlackmanWindow If NonZero Unique"), (0,)),
    **dict.fromkeys(_of("MaxUnpool SequenceInsert"), (2,)),
    **dict.fromkeys(_of("Col2Im DFT Tile"), (1, 2)),
    "AffineGrid": (1,),
    "Loop": (0, 1),
    "NonMaxSuppression": (0, 1, 2, 3, 4),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "STFT": (1, 3),
}
"""Operators of which some inputs decide by what they hold how many rows there are, or what is run at all;
the places of those inputs."""

RANDOM = _of("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli")
"""Operators that make something else at each run."""

KEEPS_TYPE = (
    ALIKE
    | AFFINE
    | POOLS
    | REDUCTIONS
    | VIEWS
    | BLOCKS
    | _of("Pow PRelu Softmax Conv ConvTranspose Gemm MatMul Identity Dropout Max Mean Min Mod Sum")
    | _of("Concat Expand Gather GatherElements GatherND Pad Resize Slice Split Tile Transpose")
    | _of("InstanceNormalization LayerNormalization LpNormalization ReduceL1 ReduceL2 ReduceProd")
)
"""Operators whose first output has the type of their first input."""
COUNTS = _of("ArgMax ArgMin NonZero Shape Size")
"""Operators whose output is of int64, whatever they read."""
