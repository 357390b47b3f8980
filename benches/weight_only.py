"""Weight-only quantization beside onnxruntime's MatMulNBitsQuantizer: `python -m benches.weight_only`.

All at 4 bits in blocks of 32, symmetric unless it says otherwise, with accuracy level 4 (activations of a block in
int8) on both sides. onnxruntime leaves embeddings in float unless told; its files are larger by that. Its quantizer
needs `pip install onnx-ir`, and for HQQ torch. Its GPTQ with zero-points fails where a column has an odd number of
blocks, whose 4-bit zero-points do not fill whole bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxq
from benches.peer_weights import Maker, weights
from benches.without_calibration import run
from tests.zoo import Feed

MODELS = ("minilm_l6", "wordlang_transformer", "kwt1_speech_commands")


def own(**options: Any) -> Maker:
    """onnxq with some options."""

    def make(source: Path, output: Path, samples: list[Feed]) -> None:
        needed = samples if options.get("rounding") in ("gptq", "awq") else samples[:1]
        onnxq.quantize(source, needed, mode="weight-only", output=output, **options)

    return make


MAKERS: dict[str, Maker] = {
    "onnxq nearest": own(rounding="nearest"),
    "onnxq mse": own(),
    "onnxq hqq": own(rounding="hqq"),
    "onnxq gptq": own(rounding="gptq"),
    "onnxq awq": own(rounding="awq"),
    "onnxq uint4 mse": own(weights="uint4"),
    "onnxq uint4 gptq": own(weights="uint4", rounding="gptq"),
    "onnxq int8": own(weights="int8"),
    "onnxq gptq, tables float": own(rounding="gptq", exclude_ops=["Gather"]),
    "ort rtn": weights("rtn", block_size=32, symmetric=True, level=4),
    "ort rtn asymmetric": weights("rtn", block_size=32, symmetric=False, level=4),
    "ort hqq": weights("hqq", block_size=32, symmetric=False, level=4),
    "ort gptq": weights("gptq", block_size=32, symmetric=True, level=4),
    "ort gptq asymmetric": weights("gptq", block_size=32, symmetric=False, level=4),
}


def main(arguments: list[str] | None = None) -> int:
    return run("weight-only", "Weight-only quantization", MODELS, MAKERS, arguments, calib=128)


if __name__ == "__main__":
    raise SystemExit(main())
