"""graphopt as a pass of Olive (`olive-ai`): in a workflow it is called GraphOpt.

Olive knows the passes that a package configuration lists, and one that is given replaces Olive's own. So
`package_config` returns Olive's with GraphOpt in it:

    >>> from olive.workflows import run
    >>> from graphopt.integrations.olive_pass import package_config
    >>> run("workflow.json", package_config=package_config())

For ``olive run --package-config FILE``, `write_package_config` writes it to a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt import files
from graphopt.calibration.reading import Given
from graphopt.errors import GraphOptError, InputError, lacking
from graphopt.model import io
from graphopt.pipeline.options.table import RUN
from graphopt.report import json as documents
from graphopt.report.results import Result

try:
    from olive.common.config_utils import ParamCategory, validate_config
    from olive.data.config import DataConfig
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.package_config import OlivePackageConfig
    from olive.passes import Pass
    from olive.passes.pass_config import BasePassConfig, PassConfigParam
    from pydantic import model_validator
except ImportError as error:
    raise InputError(f"{lacking('the Olive pass', 'olive')} ({error})") from error

ONE_FILE_BYTES = 1536 * 2**20
"""Bytes of weights from which Olive keeps a model's weights in a file of their own."""
REPORT = "graphopt-report.json"
"""The report, which Olive carries along with the model."""
ENTRY: dict[str, Any] = {
    "module_path": f"{__name__}.GraphOpt",
    "supported_providers": ["*"],
    "supported_accelerators": ["*"],
    "supported_precisions": ["*"],
    "dataset": "dataset_optional",
}
"""What Olive is told about the pass."""

PARAMETERS: Mapping[str, tuple[Any, Any, str]] = {
    option.name: (option.type, None if option.default == () else option.default, option.sentence)
    for option in RUN
}
"""Type, default and description of what goes to `graphopt.optimize` as it is."""


class OliveError(ValueError):
    """What graphopt found wrong, its `GraphOptError` being the cause.

    A ValueError ends a workflow, and ``olive run`` with it. Olive logs most other errors, and ends as if all
    were well, without a model. In a search either rules out the point at hand.
    """


class GraphOpt(Pass):
    """Makes the convolutions of an ONNX model cheaper, and verifies the result with onnxruntime."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        own = {
            name: PassConfigParam(type_=type_, default_value=default, description=description)
            for name, (type_, default, description) in PARAMETERS.items()
        }
        return {
            **own,
            "calibration": PassConfigParam(
                type_=Path | str,
                category=ParamCategory.DATA,
                description="Preprocessed inputs: .npz, .npy, or a folder of them. Not with data_config.",
            ),
            "data_config": PassConfigParam(
                type_=DataConfig | dict,
                description="Calibration inputs as a data config of the workflow. Not with calibration.",
            ),
            "save_as_external_data": PassConfigParam(
                type_=bool,
                default_value=False,
                description="Weights go to a file beside the model; from 1536 MB on they always do.",
            ),
            "fingerprint": PassConfigParam(
                type_=str,
                description=(
                    "Filled in: graphopt's version, and what the calibration files hold. Olive's cache knows "
                    "a result by the parameters alone, so that a changed one would be missed."
                ),
            ),
        }

    @classmethod
    def _validators(cls) -> dict[str, Callable[..., Any]]:
        return {"fill_in": model_validator(mode="before")(_filled_in)}

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        try:
            return _run(model, config, output_model_path)
        except GraphOptError as error:
            raise OliveError(f"GraphOpt: {error}") from error


def _filled_in(cls: type, values: Any) -> Any:
    """The parameters with their fingerprint, whatever they hold by that name."""
    if not isinstance(values, Mapping):
        return values
    calibration = values.get("calibration")
    if calibration and values.get("data_config"):
        raise ValueError("calibration and data_config: give one of them")
    inputs = f" calibration {_digest(Path(calibration))}" if isinstance(calibration, (str, Path)) else ""
    return {**values, "fingerprint": f"graphopt {graphopt.__version__}{inputs}"}


def _digest(path: Path) -> str:
    """Of a file, or of the names and contents of a folder's files; "" where there is nothing."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() + b"\0")
            with open(file, "rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()[:16]


def _run(model: ONNXModelHandler, config: BasePassConfig, output_model_path: str) -> ONNXModelHandler:
    """The pass itself.

    Raises:
        GraphOptError: as `graphopt.optimize` does; or the model is none that it takes.
    """
    if not isinstance(model, ONNXModelHandler):
        kind = type(model).__name__
        raise InputError(f"takes ONNX models, and this is a {kind}: put OnnxConversion before it")
    if model.external_initializers_path or model.constant_inputs_path:
        raise InputError("the weights are not in the model: put GraphOpt before the pass that took them out")
    given = {name: getattr(config, name) for name in PARAMETERS}
    result = graphopt.optimize(
        model.model_path,
        calibration=_calibration(model, config),
        **{name: value for name, value in given.items() if value is not None},
    )
    out = Path(resolve_onnx_path(output_model_path))
    _save(result, out, external=bool(config.save_as_external_data))
    return _handler(model, out)


def _calibration(model: ONNXModelHandler, config: BasePassConfig) -> Given | None:
    """The inputs to fit and measure on: a path, or everything that Olive's data config yields.

    Raises:
        InputError: the data config yields nothing, or batches that have no names.
    """
    if not config.data_config:
        return str(config.calibration) if config.calibration else None
    data = validate_config(config.data_config, DataConfig)
    reader = data.to_data_container().create_calibration_dataloader(
        model_path=model.model_path, io_config=model.io_config
    )
    parts: list[Mapping[str, np.ndarray]] = []
    try:
        while (batch := reader.get_next()) is not None:
            parts.append(batch)
    except AssertionError as error:  # Olive's own wording
        raise InputError(f"data_config {data.name}: {error}; inputs need the names of the model's") from error
    if not parts:
        raise InputError(f"data_config {data.name}: there are no inputs in it")
    return parts


def _save(result: Result, out: Path, *, external: bool) -> None:
    """Writes the model, and the report beside it."""
    weights = [value.const_value for value in result.model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in weights if tensor is not None)
    result.save(out, external_data="always" if external or size > ONE_FILE_BYTES else "auto")
    files.write_text(out.with_name(REPORT), documents.dumps(documents.report(result.report, 0)))


def _handler(model: ONNXModelHandler, out: Path) -> ONNXModelHandler:
    """What Olive knows of the written model: a folder where there are weights beside it."""
    beside = bool(io.load(out).data_files)
    attributes = dict(model.model_attributes or {})
    others = [file for file in attributes.get("additional_files") or [] if Path(file).name != REPORT]
    attributes["additional_files"] = sorted([*others, str(out.with_name(REPORT))])
    return ONNXModelHandler(
        model_path=str(out.parent if beside else out),
        onnx_file_name=out.name if beside else None,
        inference_settings=model.inference_settings,
        use_ort_extensions=model.use_ort_extensions,
        model_attributes=attributes,
    )


def package_config(own: Mapping[str, Any] | str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Olive's package configuration with GraphOpt in it.

    Args:
        own: a package configuration to add to Olive's, or its file; its passes win.

    Raises:
        InputError: the file can't be read.
    """
    merged = _read(OlivePackageConfig.get_default_config_path())
    added = _read(own) if isinstance(own, (str, os.PathLike)) else dict(own or {})
    for key in ("passes", "extra_dependencies"):
        merged[key] = {**merged.get(key, {}), **added.get(key, {})}
    merged["passes"]["GraphOpt"] = ENTRY
    return merged


def write_package_config(
    path: str | os.PathLike[str], own: Mapping[str, Any] | str | os.PathLike[str] | None = None
) -> None:
    """Writes `package_config` as JSON, for ``olive run --package-config``.

    Raises:
        InputError: a file can't be read or written.
    """
    files.write_text(Path(path), json.dumps(package_config(own), indent=4))


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {files.reason(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON: {files.reason(error)}") from error
    return found
