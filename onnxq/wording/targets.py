"""What people call an engine, and the target that they mean. For hints only: a target has one name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# Engines, their execution providers in onnxruntime, and makers of the hardware; in lower case.
_MEANT = {
    **dict.fromkeys(("ort", "onnxruntime", "onnx-runtime", "cpu", "mlas", "x64", "x86", "x86-64", "amd64"), "ort-cpu"),
    **dict.fromkeys(("vnni", "avx512-vnni", "avx-vnni", "avx512"), "ort-x64-vnni"),
    "avx2": "ort-x64-avx2",
    **dict.fromkeys(("arm", "arm64", "aarch64", "neon"), "ort-arm64"),
    **dict.fromkeys(("trt", "trtexec", "rtx", "nvidia", "cuda", "gpu", "jetson", "nv-tensorrt-rtx"), "tensorrt"),
    **dict.fromkeys(("ov", "intel"), "openvino"),
    **dict.fromkeys(("qualcomm", "snapdragon", "hexagon", "htp"), "qnn"),
}
_FAMILIES = ("tensorrt", "openvino", "xnnpack", "qnn", "onnxruntime")
"""A name that starts so (openvino-cpu, tensorrt_rtx, onnxruntime-cpu) is of that engine."""


def closest_target(name: str, known: Sequence[str]) -> str | None:
    """The target among `known` that `name` probably stands for; None where nothing is near.

    >>> closest_target("CPUExecutionProvider", ("ort-cpu", "tensorrt"))
    'ort-cpu'
    """
    word = name.strip().lower().replace("_", "-").replace(" ", "-").removesuffix("executionprovider")
    family = next((start for start in _FAMILIES if word.startswith(start)), word)
    for meant in (word, _MEANT.get(word), family, _MEANT.get(family)):
        if meant in known:
            return meant
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)
