"""Train ``pydoc_lm``, a small language model with a key-value cache, and export it to ONNX.

Data
    The help texts of Python itself: the topics of ``pydoc`` and the docstrings of the standard library, in ASCII, as
    the interpreter that runs this script has them (Python Software Foundation License 2). Every tenth text is kept
    for testing; the rest are for training.

Model
    Each character is a token (128 of them). Token embedding, two pre-norm decoder layers with RMSNorm, rotary
    position embedding, causal self-attention of four heads and a SwiGLU feed-forward network, a last RMSNorm, and the
    embedding again as the head, as in language models of the LLaMA kind. Keys and values of earlier tokens are inputs
    and outputs, `past_key_values.N.key` and `present.N.key` and so on, so the graph serves the prompt and every step
    behind it. Batch, sequence and length of the past are dynamic.

Perplexity
    5.02 for each character of the test windows, measured with onnxruntime on the exported file with an empty past.
    The weights are those after the last step: no checkpoint is chosen by its test loss.

Run
    pip install torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy
    python train_pydoc_lm.py

    Writes ``pydoc_lm.onnx``, ``pydoc_lm.calib.npz`` and ``pydoc_lm.test.npz`` beside this file, in about ten
    minutes on two CPU cores. Seeds are fixed, yet another Python, torch build or thread count can change the weights.
"""

from __future__ import annotations

import argparse
import ast
import math
import pydoc_data.topics
import sysconfig
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "pydoc_lm"
SEED = 20240519
OPSET = 17
VOCABULARY = 128
UNKNOWN = "?"
SHORTEST = 200
TEST_EVERY = 10
WINDOW = 128
TEST_WINDOWS = 200
CALIB_WINDOWS = 64

DIM = 128
HEADS = 4
WIDTH = DIM // HEADS
HIDDEN = 344
LAYERS = 2
ROTARY_BASE = 10000.0
EPSILON = 1e-5

STEPS = 800
BATCH = 12
PEAK_LR = 5e-3
WEIGHT_DECAY = 0.05

Past = list[tuple[Tensor, Tensor]]


class RMSNorm(nn.Module):
    """Scales a vector to unit root mean square, then each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


class Attention(nn.Module):
    """Causal self-attention over the tokens at hand and those before them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(DIM, DIM, bias=False) for _ in range(4))

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, length, before = x.shape[0], x.shape[1], past[0].shape[2]
        split = (batch, length, HEADS, WIDTH)
        positions = torch.arange(length, device=x.device) + before
        query = rotated(self.query(x).view(split).transpose(1, 2), positions)
        key = torch.cat([past[0], rotated(self.key(x).view(split).transpose(1, 2), positions)], dim=2)
        value = torch.cat([past[1], self.value(x).view(split).transpose(1, 2)], dim=2)
        hidden = torch.arange(length + before, device=x.device)[None, :] > positions[:, None]
        scores = query @ key.transpose(-2, -1) / math.sqrt(WIDTH) + hidden.to(x.dtype) * -10000.0
        mixed = torch.softmax(scores, dim=-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, DIM)), (key, value)


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of ``[N, heads, T, WIDTH]``."""
    rates = ROTARY_BASE ** (-torch.arange(0, WIDTH, 2, dtype=torch.float32) / WIDTH)
    angles = positions[:, None].to(torch.float32) * rates[None, :]
    cos, sin = torch.cos(angles), torch.sin(angles)
    first, second = x[..., : WIDTH // 2], x[..., WIDTH // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: attention and a SwiGLU feed-forward network (arXiv 2002.05202)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()
        self.attention = Attention()
        self.gate, self.up = nn.Linear(DIM, HIDDEN, bias=False), nn.Linear(DIM, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, DIM, bias=False)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, present = self.attention(self.norm1(x), past)
        x = x + mixed
        wide = self.norm2(x)
        return x + self.down(functional.silu(self.gate(wide)) * self.up(wide)), present


class LanguageModel(nn.Module):
    """``[N, T]`` tokens and the keys and values of earlier ones to logits and all keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, DIM)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = RMSNorm()
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, input_ids: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        x = self.tokens(input_ids) * math.sqrt(DIM)
        presents: list[Tensor] = []
        for place, layer in enumerate(self.layers):
            x, present = layer(x, (flat[2 * place], flat[2 * place + 1]))
            presents += present
        return functional.linear(self.norm(x), self.tokens.weight), *presents


def names(prefix: str) -> list[str]:
    """Names of the cache's tensors, in order."""
    return [f"{prefix}.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]


def empty_past(batch: int) -> list[Tensor]:
    """A cache that holds nothing yet."""
    return [torch.zeros(batch, HEADS, 0, WIDTH) for _ in range(2 * LAYERS)]


def texts() -> Iterator[str]:
    """The topics of pydoc, then each module's docstrings, in order of name."""
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        yield topic
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("**/*.py")):
        parts = path.relative_to(library).parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        yield "\n\n".join(text for text in found if text)


def load_split() -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the training and of the test texts, each one long row."""
    parts: tuple[list[str], list[str]] = ([], [])
    kept = (text for text in texts() if len(text) >= SHORTEST)
    for place, text in enumerate(kept):
        parts[place % TEST_EVERY == TEST_EVERY - 1].append(text + "\n\n\n")
    train, test = ("".join(part).encode("ascii", "replace") for part in parts)
    return np.frombuffer(train, np.uint8).astype(np.int64), np.frombuffer(test, np.uint8).astype(np.int64)


def windows(tokens: np.ndarray, count: int) -> np.ndarray:
    """``[count, WINDOW + 1]`` pieces, evenly spread."""
    starts = np.linspace(0, len(tokens) - WINDOW - 1, count).astype(np.int64)
    return np.stack([tokens[start : start + WINDOW + 1] for start in starts])


def fit(model: nn.Module, tokens: np.ndarray, steps: int) -> None:
    """Train ``model`` with AdamW and a one-cycle learning rate on random windows."""
    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.1)
    past = empty_past(BATCH)
    started, recent = time.perf_counter(), []
    for step in range(steps):
        starts = rng.integers(0, len(tokens) - WINDOW - 1, BATCH)
        batch = torch.from_numpy(np.stack([tokens[s : s + WINDOW + 1] for s in starts]))
        logits = model(batch[:, :-1], *past)[0]
        loss = functional.cross_entropy(logits.reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step + 1:5d}  loss {np.mean(recent[-100:]):.4f}  {seconds:.0f} s", flush=True)


def export(model: nn.Module, path: Path) -> None:
    """Write ``model`` in inference mode, with batch, sequence and length of the past dynamic."""
    model.eval()
    past = [torch.randn(2, HEADS, 5, WIDTH) for _ in range(2 * LAYERS)]
    axes: dict[str, dict[int, str]] = {"input_ids": {0: "batch", 1: "sequence"}, "logits": {0: "batch", 1: "sequence"}}
    axes |= {name: {0: "batch", 2: "past_sequence"} for name in names("past_key_values")}
    axes |= {name: {0: "batch", 2: "total_sequence"} for name in names("present")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.full((2, 9), 65, dtype=torch.int64), *past),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["input_ids", *names("past_key_values")],
            output_names=["logits", *names("present")],
            dynamic_axes=axes,
            do_constant_folding=True,
        )
    graph = onnx.load(str(path))
    graph.doc_string = "Language model of characters, trained on Python's own help texts (PSF License 2)."
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))


def feed(rows: np.ndarray) -> dict[str, np.ndarray]:
    """The model's inputs for whole windows: their tokens but the last, and an empty past."""
    nothing = np.zeros((len(rows), HEADS, 0, WIDTH), np.float32)
    return {"input_ids": rows[:, :-1], **dict.fromkeys(names("past_key_values"), nothing)}


def perplexity(path: Path, rows: np.ndarray) -> float:
    """Perplexity for each character, of the ONNX file under onnxruntime."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = torch.from_numpy(session.run(["logits"], feed(rows))[0])
    loss = functional.cross_entropy(logits.reshape(-1, VOCABULARY), torch.from_numpy(rows[:, 1:]).reshape(-1))
    return float(loss.exp())


def main() -> None:
    """Train, export, write the calibration and test files, and print the perplexity of the exported model."""
    parser = argparse.ArgumentParser(description="Train pydoc_lm, write its ONNX and data files.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    train, test = load_split()
    model = LanguageModel()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(train)} train tokens, {len(test)} test tokens", flush=True)
    fit(model, train, args.steps)

    path = args.out / f"{NAME}.onnx"
    export(model, path)
    rows = windows(test, TEST_WINDOWS)
    np.savez_compressed(args.out / f"{NAME}.calib.npz", **feed(windows(train, CALIB_WINDOWS)))
    np.savez_compressed(args.out / f"{NAME}.test.npz", **feed(rows), labels=rows[:, 1:])
    print(f"test perplexity under onnxruntime: {perplexity(path, rows):.3f}")


if __name__ == "__main__":
    main()
