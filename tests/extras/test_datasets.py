"""Loaders of PyTorch and datasets of Hugging Face as calibration inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader, TensorDataset

import graphopt
from graphopt.calibration import inputs
from graphopt.errors import InputError
from tests.builders import classifier, samples, saved
from tests.command import cli

X = samples(16)
ROWS = {"x": [each.tolist() for each in X], "label": list(range(16))}


def network() -> ir.Model:
    return ir.from_proto(classifier())


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_a_loader_with_labels(batch: int | None) -> None:
    data = TensorDataset(torch.from_numpy(X), torch.arange(16))
    found, _ = inputs.read(DataLoader(data, batch_size=batch), network())
    np.testing.assert_array_equal(found.joined()["x"], X)


def test_tensors_that_need_gradients() -> None:
    given = torch.from_numpy(X).requires_grad_()
    found, _ = inputs.read(given, network())
    np.testing.assert_array_equal(found.joined()["x"], X)


@pytest.mark.parametrize("form", [None, "numpy", "torch"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_dataset_without_its_other_columns(form: str | None, streamed: bool) -> None:
    data = Dataset.from_dict(ROWS).with_format(form)
    found, _ = inputs.read(data.to_iterable_dataset() if streamed else data, network())
    np.testing.assert_allclose(found.joined()["x"], X, rtol=1e-6)


def test_what_names_no_input_is_refused() -> None:
    data = Dataset.from_dict(ROWS)
    with pytest.raises(InputError, match=r"the splits 'train', 'test': give one of them"):
        graphopt.optimize(classifier(), {"macs": 0.8}, DatasetDict(train=data, test=data))
    with pytest.raises(InputError, match=r"the columns 'pixels', 'label', and the model the inputs 'x'"):
        inputs.read(data.rename_column("x", "pixels"), network())


def test_a_folder_that_a_dataset_was_saved_to(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "scores.onnx")
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "data")
    np.save(tmp_path / "inputs.npy", X)
    made = []
    for given in ("data", "inputs.npy"):
        asked = ("--calibration", str(tmp_path / given), "--budget", "macs=0.8", "--quiet")
        cli("optimize", str(path), "-o", str(tmp_path / "out.onnx"), *asked).fine()
        made.append((tmp_path / "out.onnx").read_bytes())
    assert made[0] == made[1]


def test_a_folder_of_splits_is_refused_with_their_names(tmp_path: Path) -> None:
    DatasetDict(train=Dataset.from_dict(ROWS)).save_to_disk(tmp_path / "data")
    with pytest.raises(InputError, match=r"data: holds the splits 'train' of a dataset: give the folder"):
        graphopt.optimize(classifier(), {"macs": 0.8}, tmp_path / "data")
