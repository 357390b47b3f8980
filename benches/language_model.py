"""Weights in few bits on a language model: `python -m benches.language_model`.

Perplexity for each character of the test windows of models/pydoc_lm.onnx, for every rounding, type and block of onnxq
beside onnxruntime's MatMulNBitsQuantizer (RTN, HQQ, GPTQ), which needs `pip install onnx-ir`, and for HQQ torch. All
with accuracy level 0, so that activations stay float and only the weights differ. Methods that look at data get 64
windows of the training texts. onnxruntime's GPTQ with zero-points fails in blocks of 32: the 344 rows of a product
here make 11 of them, and 11 zero-points of 4 bits do not fill whole bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import onnxq
from benches.job import shortened
from benches.peer_weights import Maker, weights
from benches.sections import RESULTS, write_section

MODELS = Path(__file__).resolve().parents[1] / "models"
Feed = dict[str, NDArray[np.generic]]

ROUNDINGS = ("nearest", "mse", "hqq", "gptq", "awq")
FORMS = (("int4", 32), ("int4", 128), ("uint4", 16), ("uint4", 32), ("int8", 0))
PEERS: tuple[tuple[str, str, int, bool], ...] = (
    ("ort rtn", "rtn", 32, True),
    ("ort rtn", "rtn", 128, True),
    ("ort rtn", "rtn", 16, False),
    ("ort rtn", "rtn", 32, False),
    ("ort hqq", "hqq", 16, False),
    ("ort hqq", "hqq", 32, False),
    ("ort gptq", "gptq", 32, True),
    ("ort gptq", "gptq", 128, True),
    ("ort gptq", "gptq", 16, False),
)


def perplexity(path: Path, test: Feed, labels: NDArray[np.int64]) -> float:
    """e to the mean negative log-likelihood of a character."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    losses = []
    for row in range(0, len(labels), 25):
        part = {name: value[row : row + 25] for name, value in test.items()}
        (logits,) = session.run(["logits"], part)
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        losses.append(-np.take_along_axis(logs, labels[row : row + 25, :, None], axis=-1))
    return float(np.exp(np.concatenate(losses).mean()))


def own(form: str, block: int, rounding: str) -> Maker:
    """onnxq with one form and rounding."""

    def make(source: Path, output: Path, samples: list[Feed]) -> None:
        options = {"weights": form, "block_size": block, "rounding": rounding, "accuracy_level": 0}
        needed = samples if rounding in {"gptq", "awq"} else samples[:1]
        onnxq.quantize(source, needed, mode="weight-only", output=output, exclude_ops=["Gather"], **options)

    return make


def variants(wanted: Sequence[str]) -> Iterator[tuple[str, str, Maker]]:
    """Name, form and maker of every cell; of the forms `wanted`, such as "int4, 32", or of all."""
    for form, block in FORMS:
        if wanted and f"{form}, {block}" not in wanted:
            continue
        for rounding in ROUNDINGS:
            yield f"onnxq {rounding}", f"{form}, {block or 'channel'}", own(form, block, rounding)
    for name, algorithm, block, symmetric in PEERS:
        form = f"{'int4' if symmetric else 'uint4'}, {block}"
        if not wanted or form in wanted:
            yield name, form, weights(algorithm, block_size=block, symmetric=symmetric, level=0)


def measured(
    source: Path, samples: list[Feed], test: Feed, labels: NDArray[np.int64], wanted: Sequence[str]
) -> dict[tuple[str, str], str]:
    """Perplexity of every variant, by name and form."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        output = Path(folder) / "model.onnx"
        for name, form, make in variants(wanted):
            output.unlink(missing_ok=True)
            try:
                make(source, output, samples)
                found[name, form] = f"{perplexity(output, test, labels):.3f}"
            except Exception as error:  # whatever it is, the table shows it
                found[name, form] = shortened(f"{type(error).__name__}: {error}")
            print(name, form, found[name, form], flush=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Perplexity of a language model with weights in few bits")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose section is replaced")
    parser.add_argument("--form", action="append", default=[], help="such as 'int4, 32'; repeatable; default: all")
    options = parser.parse_args(arguments)
    source = MODELS / "pydoc_lm.onnx"
    test: Feed = dict(np.load(MODELS / "pydoc_lm.test.npz"))
    labels = test.pop("labels").astype(np.int64)
    calib = dict(np.load(MODELS / "pydoc_lm.calib.npz"))
    count = len(calib["input_ids"])
    samples: list[Feed] = [{name: value[i : i + 1] for name, value in calib.items()} for i in range(count)]
    found = measured(source, samples, test, labels, options.form)
    names = list(dict.fromkeys(name for name, _ in found))
    forms = list(dict.fromkeys(form for _, form in found))
    lines = [
        "## Perplexity with weights in few bits",
        "",
        f"models/pydoc_lm.onnx, float: {perplexity(source, test, labels):.3f} for each character of {labels.size:,}. "
        "Written by `python -m benches.language_model`; embeddings stay float on both sides.",
        "",
        "| | " + " | ".join(forms) + " |",
        "| --- |" + " --: |" * len(forms),
        *(f"| {name} | " + " | ".join(found.get((name, form), "") for form in forms) + " |" for name in names),
    ]
    write_section(options.output, "language-model", "\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
