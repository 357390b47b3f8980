"""Ways out of errors of onnxruntime, where its message tells them."""

from __future__ import annotations

from onnxq.runtime import ort

_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory")
"""How onnxruntime says so, in errors of other kinds."""


def hint_of_loading(error: str) -> str | None:
    """The way out of an error of onnxruntime, where it can be told."""
    if "is not a registered function/op" in error:
        return (
            "the operator is not one of onnxruntime's own. If it comes from a library for onnxruntime, name that: "
            "onnxq.register_custom_ops(path) (--custom-ops LIB). If it is a plugin of TensorRT, quantize the model "
            "without it, cut off with onnx.utils.extract_model(), or export the part with operators of ONNX"
        )
    if any(sign in error for sign in _OUT_OF_MEMORY):
        return (
            "there was not enough memory: run on a machine with more, or raise the limit of this process. Weights in a "
            "file beside the model are mapped, not read, but count where a limit is one of addresses (ulimit -v, -d)"
        )
    if "NOT_IMPLEMENTED" not in error:
        return None
    return (
        f"onnxruntime {ort.__version__} has no kernel for this operator in this type or this version: "
        "export the model with an older opset, or upgrade onnxruntime (pip install -U onnxruntime)"
    )
