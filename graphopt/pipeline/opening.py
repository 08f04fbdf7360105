"""Models as every command opens them.

They are read and checked, functions stand in the place of their calls, and what a file says of inner shapes
is believed where it follows from the inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import onnx
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis import claims
from graphopt.analysis.constants import Constants
from graphopt.errors import InputError, Named, located
from graphopt.files import PathLike, show
from graphopt.model import edit, io
from graphopt.model.inlining import inlined
from graphopt.model.io import Source
from graphopt.model.validation import validate
from graphopt.pipeline.options.checked import Options
from graphopt.report.wording import numbered
from graphopt.runtime import session
from graphopt.verification import interface

AnyModel: TypeAlias = "PathLike | onnx.ModelProto | ir.Model"


def opened(model: AnyModel) -> Source:
    """The model, read and checked, its functions in the place of their calls.

    Raises:
        InputError: it can't be read, or is no valid model.
    """
    with progress.step("load"):
        source = io.load(model)
        validate(source.model, source.path)
        found = inlined(source.model)
    if found.model is source.model:
        return replace(source, left=found.left)
    return replace(source, model=found.model, left=found.left, uninlined=source.model)


def trusted(source: Source, *, frozen: bool = False) -> Source:
    """A model without what it declares of inner shapes where that does not follow from its inputs.

    Before anything is built on it: onnxruntime plans its memory by it, or refuses the model. The file stays
    as it is until something else changes.

    Args:
        source: the model.
        frozen: whether initializers that a caller may override are constants.

    Raises:
        InputError: its operators do not fit what they read.
    """
    names: dict[str, None] = {}
    for model in (source.uninlined, source.model):
        if model is not None:
            with located(source.path):
                found = claims.corrected(model, Constants(model, frozen))
            edit.redeclare(found)
            names.update(dict.fromkeys(value.name or "" for value in found))
    refused = bool(names) and session.refused(source)
    return replace(source, disclaimed=tuple(names), refused=refused)


def disclaimed(source: Source) -> str:
    """That shapes which a model declares were not believed; "" where all were."""
    names = source.disclaimed
    if not names:
        return ""
    refused = ", and onnxruntime refuses the file for it" if source.refused else ""
    return (
        f"the shape that the file gives for {numbered(len(names), 'inner value')} "
        f"({names[0]}{', …' if len(names) > 1 else ''}) does not follow from its inputs, as if left from an "
        f"earlier export{refused}: not relied on"
    )


def counting(source: Source, asked: Options) -> tuple[Source, Options]:
    """A model and options that know of each other which values count: inner ones are outputs meanwhile."""
    found = interface.counted(source.model, asked.outputs)
    return exposed(source, found.inner), replace(asked, outputs=found)


def exposed(source: Source, names: Sequence[str]) -> Source:
    """A model with inner values among its outputs."""
    if not names:
        return source
    whole = source.uninlined
    if whole is not None:
        made = {value.name for node in whole.graph for value in node.outputs}
        whole = edit.exposed(whole, [name for name in names if name in made])
    return replace(source, model=edit.exposed(source.model, names), uninlined=whole)


def require_values(source: Source, names: Iterable[str]) -> None:
    """Refuses a model that lacks inner values that count.

    Raises:
        InputError: it lacks one.
    """
    made = {value.name for node in source.model.graph for value in node.outputs}
    for name in names:
        if name not in made:
            where = "the rewritten model" if source.path is None else show(source.path)
            raise InputError(f"{Named('outputs', name)}: {where} has no value of this name")
