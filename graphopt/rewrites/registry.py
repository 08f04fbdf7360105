"""The rewrites, one a file, and the registry of those that take part in a run."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata

from graphopt.errors import InputError, hint
from graphopt.rewrites.base import Rewrite
from graphopt.rewrites.collapsing.collapse import Collapse
from graphopt.rewrites.collapsing.collapse_concat import CollapseConcat
from graphopt.rewrites.collapsing.collapse_fanout import CollapseFanout
from graphopt.rewrites.collapsing.collapse_layout import CollapseLayout
from graphopt.rewrites.converting.cancel_transpose import CancelTranspose
from graphopt.rewrites.converting.conv_to_gemm import ConvToGemm
from graphopt.rewrites.converting.fold_permutation import FoldPermutation
from graphopt.rewrites.converting.transpose_to_conv import TransposeToConv
from graphopt.rewrites.expanding.insert_pointwise import InsertPointwise
from graphopt.rewrites.factoring.bottleneck import Bottleneck
from graphopt.rewrites.factoring.depthwise_separable import DepthwiseSeparable
from graphopt.rewrites.factoring.inverted_bottleneck import InvertedBottleneck
from graphopt.rewrites.factoring.lossless_bottleneck import LosslessBottleneck
from graphopt.rewrites.factoring.lossless_depthwise import LosslessDepthwise
from graphopt.rewrites.factoring.lossless_separable import LosslessSeparable
from graphopt.rewrites.factoring.separable import Separable
from graphopt.rewrites.folding.fold_affine import FoldAffine
from graphopt.rewrites.folding.fold_affine_before import FoldAffineBefore
from graphopt.rewrites.folding.fold_constant import FoldConstant
from graphopt.rewrites.folding.fold_pad import FoldPad
from graphopt.rewrites.merging.join_split_branches import JoinSplitBranches
from graphopt.rewrites.merging.merge_branches import MergeBranches
from graphopt.rewrites.merging.merge_siblings import MergeSiblings
from graphopt.rewrites.merging.sum_first import SumFirst
from graphopt.rewrites.moving.pool_first import PoolFirst
from graphopt.rewrites.moving.propagate_stride import PropagateStride
from graphopt.rewrites.moving.resize_after_pointwise import ResizeAfterPointwise
from graphopt.rewrites.moving.resize_before_pointwise import ResizeBeforePointwise
from graphopt.rewrites.moving.resize_phases import ResizePhases
from graphopt.rewrites.pruning.block_diagonal import BlockDiagonal
from graphopt.rewrites.pruning.fold_constant_channels import FoldConstantChannels
from graphopt.rewrites.pruning.prune_channels import PruneChannels
from graphopt.rewrites.pruning.shrink_kernel import ShrinkKernel
from graphopt.rewrites.simplification.drop_zero_convolution import DropZeroConvolution
from graphopt.rewrites.simplification.identity_convolution import IdentityConvolution
from graphopt.rewrites.simplification.remove_duplicates import RemoveDuplicates
from graphopt.rewrites.simplification.remove_identity import RemoveIdentity
from graphopt.types import Exactness

BUILTIN: tuple[type[Rewrite], ...] = (
    FoldPad,
    FoldAffine,
    FoldAffineBefore,
    MergeBranches,
    SumFirst,
    RemoveDuplicates,
    MergeSiblings,
    FoldConstant,
    Collapse,
    CollapseConcat,
    CollapseFanout,
    CollapseLayout,
    LosslessBottleneck,
    RemoveIdentity,
    CancelTranspose,
    PropagateStride,
    ShrinkKernel,
    PruneChannels,
    FoldConstantChannels,
    FoldPermutation,
    TransposeToConv,
    ConvToGemm,
    JoinSplitBranches,
    PoolFirst,
    ResizeAfterPointwise,
    ResizeBeforePointwise,
    ResizePhases,
    BlockDiagonal,
    IdentityConvolution,
    DropZeroConvolution,
    LosslessSeparable,
    LosslessDepthwise,
    InsertPointwise,
    Bottleneck,
    Separable,
    DepthwiseSeparable,
    InvertedBottleneck,
)
"""The rewrites that graphopt ships, in the order in which they are listed."""
ENTRY_POINTS = "graphopt.rewrites"
"""The entry-point group by which installed packages add theirs."""


def registry(extra: Iterable[Rewrite | type[Rewrite]] = ()) -> dict[str, Rewrite]:
    """All rewrites by name: built in, from installed packages, and those given.

    Raises:
        InputError: two have the same name, or something given is no rewrite.
    """
    found: dict[str, Rewrite] = {}
    owners: dict[str, str] = {}
    for item, owner in (*((each, "graphopt") for each in BUILTIN), *_installed(), *_given(extra)):
        rewrite = _instance(item, owner)
        if rewrite.name in found:
            raise InputError(
                f"two rewrites are called {rewrite.name!r}, one of {owners[rewrite.name]} and one of "
                f"{owner}; rename one, or uninstall its package"
            )
        found[rewrite.name], owners[rewrite.name] = rewrite, owner
    return found


def _installed() -> Iterator[tuple[object, str]]:
    """What installed packages add, with the package that each is of."""
    for entry in sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda e: (e.name, e.value)):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"
        owner = f"{package} ({entry.value})"
        try:
            yield entry.load(), owner
        except Exception as error:  # whatever a third party's import does
            raise InputError(_unusable(owner, error)) from error


def _given(extra: Iterable[Rewrite | type[Rewrite]]) -> Iterator[tuple[object, str]]:
    """What the caller adds."""
    for item in extra:
        yield item, f"rewrites=[{getattr(item, '__name__', item)}]"


def _instance(item: object, owner: str) -> Rewrite:
    """The rewrite with its default options.

    Raises:
        InputError: it can't be made, or is no rewrite.
    """
    try:
        rewrite = item() if isinstance(item, type) else item
    except Exception as error:  # an option without a default, or whatever a third party's code does
        raise InputError(_unusable(owner, error)) from error
    if not isinstance(rewrite, Rewrite):
        raise InputError(f"{item!r} of {owner} is no rewrite: it needs name, exactness, match and build")
    return rewrite


def _unusable(owner: str, error: Exception) -> str:
    what = f"{type(error).__name__}: {error}"
    return f"the rewrite of {owner} can't be loaded: {what}; repair or uninstall that package"


def select(
    available: Mapping[str, Rewrite],
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
) -> list[Rewrite]:
    """The rewrites that take part, with their options set.

    Args:
        available: all rewrites by name.
        only: names of those that take part; all when empty.
        skip: names of those that do not.
        options: values by ``rewrite.option``; strings are read as the option's type.

    Returns:
        The rewrites in the order of the registry.

    Raises:
        InputError: an unknown rewrite or option, or a value that does not fit.
    """
    only, skip = list(only), list(skip)
    for name in (*only, *skip):
        _known(name, available)
    configured = dict(available)
    for key, value in (options or {}).items():
        name, _, option = key.partition(".")
        if not option:
            raise InputError(f"{key}={value}: expected REWRITE.OPTION=VALUE, such as bottleneck.rank_in=16")
        _known(name, available)
        configured[name] = _with_option(configured[name], option, value)
    return [r for name, r in configured.items() if (not only or name in only) and name not in skip]


def _known(name: str, available: Mapping[str, Rewrite]) -> None:
    if name not in available:
        raise InputError(f"no rewrite is called {name!r}; {hint(name, available)}")


def option_types(rewrite: Rewrite | type[Rewrite]) -> dict[str, tuple[str, object]]:
    """Type and default of each option of a rewrite."""
    if not dataclasses.is_dataclass(rewrite):
        return {}
    return {f.name: (_spelled(f.type), f.default) for f in dataclasses.fields(rewrite)}


def _spelled(type_: object) -> str:
    """A field's type as its author wrote it, whether or not annotations are kept as text."""
    return type_.__name__ if isinstance(type_, type) else str(type_)


def _with_option(rewrite: Rewrite, option: str, value: object) -> Rewrite:
    names = option_types(rewrite)
    if option not in names:
        raise InputError(f"{rewrite.name} has no option {option!r}; {hint(option, names)}")
    kind = typing.get_type_hints(type(rewrite))[option]
    parsed = _parse(value, kind) if isinstance(value, str) else value
    if parsed is NotImplemented:
        raise InputError(f"{rewrite.name}.{option}={value}: expected {names[option][0]}")
    try:
        return dataclasses.replace(rewrite, **{option: parsed})  # type: ignore[type-var]
    except ValueError as error:
        raise InputError(f"{rewrite.name}.{option}={value}: {error}") from error


def _parse(text: str, hint: object) -> object:
    """The text as a value of the type; NotImplemented when it is none."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if text.lower() == "none" and type(None) in kinds:
        return None
    for kind in kinds:
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float, str):
            try:
                return kind(text)
            except ValueError:
                continue
    return NotImplemented


def explain(rewrite: Rewrite) -> str:
    """What the rewrite's module says about it, else its own docstring."""
    module = inspect.getmodule(type(rewrite))
    return inspect.cleandoc((module.__doc__ if module else None) or type(rewrite).__doc__ or rewrite.name)


def summary(rewrite: Rewrite) -> str:
    """The first line of the explanation."""
    return explain(rewrite).splitlines()[0]


def is_default(rewrite: Rewrite) -> bool:
    """Whether the rewrite takes part without being asked for."""
    return rewrite.exactness is Exactness.EXACT
