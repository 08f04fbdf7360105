"""The rewrites, one a file, and the registry of those that take part in a run."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

from graphopt.errors import InputError, hint
from graphopt.rewrites.aligning.pad_channels import PadChannels
from graphopt.rewrites.aligning.split_multiplier import SplitMultiplier
from graphopt.rewrites.base import AnyRewrite, ApproximateRewrite, ExactRewrite, ExpandingRewrite, Rewrite
from graphopt.rewrites.collapsing.collapse import Collapse
from graphopt.rewrites.collapsing.collapse_concat import CollapseConcat
from graphopt.rewrites.collapsing.collapse_fanout import CollapseFanout
from graphopt.rewrites.collapsing.collapse_layout import CollapseLayout
from graphopt.rewrites.converting.cancel_transpose import CancelTranspose
from graphopt.rewrites.converting.conv_to_gemm import ConvToGemm
from graphopt.rewrites.converting.conv_to_winograd import ConvToWinograd
from graphopt.rewrites.converting.fold_permutation import FoldPermutation
from graphopt.rewrites.converting.transpose_to_conv import TransposeToConv
from graphopt.rewrites.expanding.insert_pointwise import InsertPointwise
from graphopt.rewrites.factoring.bottleneck import Bottleneck
from graphopt.rewrites.factoring.depthwise_separable import DepthwiseSeparable
from graphopt.rewrites.factoring.inverted_bottleneck import InvertedBottleneck
from graphopt.rewrites.factoring.lossless_bottleneck import LosslessBottleneck
from graphopt.rewrites.factoring.lossless_depthwise import LosslessDepthwise
from graphopt.rewrites.factoring.lossless_separable import LosslessSeparable
from graphopt.rewrites.factoring.select_channels import SelectChannels
from graphopt.rewrites.factoring.separable import Separable
from graphopt.rewrites.folding.constant_folding import ConstantFolding
from graphopt.rewrites.folding.fold_affine import FoldAffine
from graphopt.rewrites.folding.fold_affine_before import FoldAffineBefore
from graphopt.rewrites.folding.fold_constant import FoldConstant
from graphopt.rewrites.folding.fold_pad import FoldPad
from graphopt.rewrites.folding.fold_sizes import FoldSizes
from graphopt.rewrites.lifting.lift_conv1d import LiftConv1d
from graphopt.rewrites.lifting.split_frames import SplitFrames
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
from graphopt.rewrites.refitting.refit_layer import RefitLayer
from graphopt.rewrites.simplification.drop_ceil_mode import DropCeilMode
from graphopt.rewrites.simplification.drop_zero_convolution import DropZeroConvolution
from graphopt.rewrites.simplification.identity_convolution import IdentityConvolution
from graphopt.rewrites.simplification.remove_duplicates import RemoveDuplicates
from graphopt.rewrites.simplification.remove_identity import RemoveIdentity
from graphopt.rewrites.spelling.spell_clip import SpellClip
from graphopt.rewrites.spelling.spell_gelu import SpellGelu
from graphopt.rewrites.spelling.spell_hard_swish import SpellHardSwish
from graphopt.rewrites.spelling.spell_instance_norm import SpellInstanceNorm
from graphopt.rewrites.spelling.spell_layer_norm import SpellLayerNorm
from graphopt.rewrites.spelling.spell_mish import SpellMish
from graphopt.rewrites.spelling.spell_resize import SpellResize
from graphopt.rewrites.spelling.spell_silu import SpellSilu
from graphopt.rewrites.spelling.split_prelu import SplitPRelu
from graphopt.types import Exactness

BUILTIN: tuple[type[AnyRewrite], ...] = (
    FoldPad,
    FoldAffine,
    FoldAffineBefore,
    MergeBranches,
    SumFirst,
    RemoveDuplicates,
    MergeSiblings,
    FoldConstant,
    ConstantFolding,
    FoldSizes,
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
    ConvToWinograd,
    JoinSplitBranches,
    PoolFirst,
    ResizeAfterPointwise,
    ResizeBeforePointwise,
    ResizePhases,
    BlockDiagonal,
    IdentityConvolution,
    DropZeroConvolution,
    DropCeilMode,
    SpellClip,
    SpellGelu,
    SpellHardSwish,
    SpellInstanceNorm,
    SpellLayerNorm,
    SpellMish,
    SpellResize,
    SpellSilu,
    SplitPRelu,
    LiftConv1d,
    SplitMultiplier,
    PadChannels,
    SplitFrames,
    LosslessSeparable,
    LosslessDepthwise,
    InsertPointwise,
    Bottleneck,
    Separable,
    DepthwiseSeparable,
    InvertedBottleneck,
    SelectChannels,
    RefitLayer,
)
"""The rewrites that graphopt ships, in the order in which they are listed."""
OURS = "graphopt"
"""The owner of those."""
ENTRY_POINTS = "graphopt.rewrites"
"""The entry-point group by which installed packages add theirs."""


KINDS: Mapping[Exactness, type[AnyRewrite]] = {
    Exactness.EXACT: ExactRewrite,
    Exactness.APPROXIMATE: ApproximateRewrite,
    Exactness.EXPANDING: ExpandingRewrite,
}
"""The class whose hooks and defaults a rewrite has."""
NEAR = 0.8
"""How alike a name and a hook's are (`difflib`) from which the one is taken for a slip of the other: derived,
two letters of `match` that changed places make it 0.8."""


def finishing(rewrites: Iterable[AnyRewrite]) -> list[ExactRewrite]:
    """The exact rewrites that approximate ones ask for, to take away what their candidates leave unread."""
    forms = [rewrite for rewrite in rewrites if isinstance(rewrite, ApproximateRewrite)]
    names = dict.fromkeys(name for form in forms for name in form.finish())
    every = registry() if names else {}
    return [found for name in names if isinstance(found := every[name], ExactRewrite)]


def registry(extra: Iterable[Rewrite | type[Rewrite]] = ()) -> dict[str, AnyRewrite]:
    """All rewrites by name, with the defaults of their kinds: built in, from installed packages, and given.

    Raises:
        InputError: two have the same name, something given is no rewrite, or a hook of it is not as expected.
    """
    found: dict[str, AnyRewrite] = {}
    owners: dict[str, str] = {}
    for item, owner in (*((each, OURS) for each in BUILTIN), *_installed(), *_given(extra)):
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
    for entry in entry_points():
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"
        owner = f"{package} ({entry.value})"
        try:
            yield entry.load(), owner
        except Exception as error:  # whatever a third party's import does
            raise InputError(_unusable(owner, error)) from error


def entry_points() -> Sequence[metadata.EntryPoint]:
    """The entry points of rewrites, in order; they are looked for again when a folder of packages changed."""
    return _found_in(tuple(map(_state, sys.path)))


@lru_cache(maxsize=1)
def _found_in(folders: tuple[tuple[str, int, int], ...]) -> Sequence[metadata.EntryPoint]:
    """The entry points of rewrites in folders of a state; the files of every package are read."""
    return sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: (entry.name, entry.value))


def _state(folder: str) -> tuple[str, int, int]:
    """What differs once a package was added to a folder or taken out of it."""
    try:
        found = os.stat(folder or os.curdir)
    except OSError:  # it is not there, yet
        return folder, 0, 0
    return folder, found.st_ino, found.st_mtime_ns


def _given(extra: Iterable[Rewrite | type[Rewrite]]) -> Iterator[tuple[object, str]]:
    """What the caller adds."""
    for item in extra:
        yield item, f"rewrites=[{getattr(item, '__name__', item)}]"


def _instance(item: object, owner: str) -> AnyRewrite:
    """The rewrite with its default options, and with the defaults of its kind.

    Raises:
        InputError: it can't be made, is no rewrite, or a hook is not as expected.
    """
    try:
        rewrite: Any = item() if isinstance(item, type) else item
    except Exception as error:  # an option without a default, or whatever a third party's code does
        raise InputError(_unusable(owner, error)) from error
    kind = KINDS.get(rewrite.exactness) if isinstance(rewrite, Rewrite) else None
    needed = "fit" if kind is ApproximateRewrite else "build"
    if kind is None or not hasattr(rewrite, needed):
        raise InputError(f"{item!r} of {owner} is no rewrite: it needs name, exactness, match and {needed}")
    wrong = "" if owner == OURS else slip(rewrite, kind)  # ours are checked by types and tests
    if wrong:
        raise InputError(f"the rewrite {rewrite.name} of {owner} has {wrong}")
    return _completed(rewrite, kind)


def slip(rewrite: Any, kind: type[AnyRewrite]) -> str:
    """What is wrong with the hooks that a rewrite of a kind offers; "" when nothing is."""
    import difflib  # only where there is a rewrite of others

    hooks, options = _public(kind), option_types(rewrite)
    others = {name for other in KINDS.values() for name in _public(other)} - hooks
    for name in sorted(_public(type(rewrite))):
        near = difflib.get_close_matches(name, hooks, 1, NEAR)
        if name in hooks - {"name"}:
            wrong = _misfit(name, getattr(kind, name), getattr(rewrite, name))
            if wrong:
                return wrong
        elif name in others and name not in options:
            theirs = " and ".join(each.value for each in KINDS if name in _public(KINDS[each]))
            known = ", ".join(sorted(hooks))
            return f"{name}, a hook of {theirs} rewrites; {kind.exactness.value} ones have {known}"
        elif near and name not in (*hooks, *options):
            return f"{name}, which is no hook; did you mean {near[0]}? Else let it begin with an underscore"
    return ""


def _public(kind: type) -> set[str]:
    return {"name", *(name for name in dir(kind) if not name.startswith("_"))}


def _misfit(name: str, hook: Any, own: Any) -> str:
    """A rewrite's hook and what it should be; "" where it can be asked as the hook of its kind."""
    if not callable(hook):
        fits = not callable(own) if isinstance(hook, property) else isinstance(own, type(hook))
        expected = "a value, no method" if isinstance(hook, property) else f"a {type(hook).__name__}"
        return "" if fits else f"{name}={own!r}, which should be {expected}"
    asked = list(inspect.signature(hook).parameters.values())[1:]
    named = {each.name: "…" for each in asked if each.kind is each.KEYWORD_ONLY}
    positional = [each.name for each in asked if each.name not in named]
    call = f"{name}({', '.join([*positional, *map('{}=…'.format, named)])})"
    if not callable(own):
        return f"{name}={own!r}, which should be a method: {call}"
    signature = inspect.signature(own)
    try:
        signature.bind(*positional, **named)
    except TypeError:
        return f"{name}({', '.join(signature.parameters)}), which should be {call}"
    return ""


def _completed(rewrite: Any, kind: type[AnyRewrite]) -> AnyRewrite:
    """The rewrite with the defaults of its kind, from whose class it need not derive."""
    own = type(rewrite)
    whole: AnyRewrite = copy.copy(rewrite)
    if issubclass(own, kind):
        return whole
    told = {"__slots__": (), "__module__": own.__module__, "__doc__": own.__doc__}
    both = types.new_class(own.__name__, (own, kind), exec_body=lambda names: names.update(told))
    object.__setattr__(whole, "__class__", both)  # a frozen one, too
    return whole


def _unusable(owner: str, error: Exception) -> str:
    what = f"{type(error).__name__}: {error}"
    return f"the rewrite of {owner} can't be loaded: {what}; repair or uninstall that package"


def select(
    available: Mapping[str, AnyRewrite],
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
) -> list[AnyRewrite]:
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


def _known(name: str, available: Mapping[str, AnyRewrite]) -> None:
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


def _with_option(rewrite: AnyRewrite, option: str, value: object) -> AnyRewrite:
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
