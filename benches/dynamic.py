"""Dynamic quantization beside onnxruntime's `quantize_dynamic`: `python -m benches.dynamic`.

Accuracy, SQNR, size and latency of each, on the same samples. `s8 7 bits` is what onnxruntime advises for x64 without
VNNI, where onnxq keeps 8 bits and guards single pairs of weights.
"""

from __future__ import annotations

from pathlib import Path

import onnxq
from benches.peer_weights import Maker, dynamic
from benches.without_calibration import run
from tests.zoo import Feed

MODELS = (
    "silero_vad", "silero_vad_sequence", "minilm_l6", "wordlang_transformer", "kwt1_speech_commands", "magika",
)  # fmt: skip


def own(target: str, **options: str) -> Maker:
    """onnxq for one target."""

    def make(source: Path, output: Path, samples: list[Feed]) -> None:
        onnxq.quantize(source, samples[:1], mode="dynamic", target=target, output=output, **options)  # type: ignore[arg-type]

    return make


MAKERS: dict[str, Maker] = {
    "onnxq": own("ort-x64-vnni"),
    "onnxq, avx2": own("ort-x64-avx2"),
    "onnxq, full": own("ort-x64-vnni", placement="full"),
    "quantize_dynamic": dynamic(per_channel=False, reduce_range=False),
    "quantize_dynamic per channel": dynamic(per_channel=True, reduce_range=False),
    "quantize_dynamic per channel, 7 bits": dynamic(per_channel=True, reduce_range=True),
}


def main(arguments: list[str] | None = None) -> int:
    return run("dynamic", "Dynamic quantization", MODELS, MAKERS, arguments, calib=8)


if __name__ == "__main__":
    raise SystemExit(main())
