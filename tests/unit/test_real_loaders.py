"""Data of torch and of Hugging Face's `datasets`, the real packages; skipped where they are not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxq

MODELS = Path(__file__).parents[2] / "models"
MODEL = MODELS / "digits_resnet.onnx"


def digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(MODELS / "digits_resnet.test.npz") as arrays:
        return arrays["image"][:16], arrays["labels"][:16]


def reference() -> dict[str, Any]:
    images, _ = digits()
    return onnxq.calibrate(MODEL, {"image": images}, batch_size=4, target="ort-x64-vnni").tensors


@pytest.mark.parametrize("form", ["images and labels", "images", "float64", "with gradients", "two workers"])
def test_a_data_loader_of_torch(form: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset  # noqa: PLC0415

    images, labels = (torch.tensor(array) for array in digits())
    sets = {
        "images": images,
        "float64": TensorDataset(images.double()),
        "with gradients": TensorDataset(images.requires_grad_()),
    }
    workers = 2 if form == "two workers" else 0
    loader = DataLoader(sets.get(form, TensorDataset(images.detach(), labels)), batch_size=4, num_workers=workers)
    assert onnxq.calibrate(MODEL, loader, target="ort-x64-vnni").tensors == reference()


@pytest.mark.parametrize("form", ["lists", "numpy", "torch", "streamed", "shuffled"])
def test_a_data_set_of_hugging_face(form: str) -> None:
    datasets = pytest.importorskip("datasets")
    if form == "torch":
        pytest.importorskip("torch")
    images, labels = digits()
    made = datasets.Dataset.from_dict({"image": list(images), "label": labels.tolist()})
    data = {
        "lists": made,
        "numpy": made.with_format("numpy"),
        "torch": made.with_format("torch") if form == "torch" else None,
        "streamed": made.to_iterable_dataset(),
        "shuffled": onnxq.Data(made, shuffle=3),
    }[form]
    assert onnxq.calibrate(MODEL, data, target="ort-x64-vnni").samples == len(images)


def test_pictures_of_a_data_set_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image  # noqa: PLC0415

    images, labels = digits()
    pictures = [Image.fromarray((image[0] * 255).astype(np.uint8)) for image in images]
    made = datasets.Dataset.from_dict({"picture": pictures, "label": labels.tolist()})
    plain = onnxq.ImageOptions()
    assert onnxq.calibrate(MODEL, made, images=plain, target="ort-x64-vnni").samples == len(images)
    with pytest.raises(onnxq.DataError, match=r"'train' of the data is of type Dataset") as error:
        onnxq.calibrate(MODEL, datasets.DatasetDict(train=made), images=plain)
    assert "data['train']" in str(error.value)
