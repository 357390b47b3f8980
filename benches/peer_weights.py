"""onnxruntime's own quantizers without calibration: `quantize_dynamic`, and MatMulNBitsQuantizer in its variants."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from tests.zoo import Feed

Maker = Callable[[Path, Path, list[Feed]], None]
"""Reads a float model and writes a quantized one, with the calibration samples at hand."""


def dynamic(*, per_channel: bool, reduce_range: bool) -> Maker:
    """`quantize_dynamic` behind its own pre-processing."""

    def make(source: Path, output: Path, samples: list[Feed]) -> None:
        del samples
        prepared = output.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared),
            str(output),
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
        )

    return make


def weights(algorithm: str, *, block_size: int, symmetric: bool, level: int) -> Maker:
    """MatMulNBitsQuantizer: "rtn" (its default), "hqq" or "gptq"."""

    def make(source: Path, output: Path, samples: list[Feed]) -> None:
        # Needs the package onnx-ir, and for "hqq" torch.
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits  # noqa: PLC0415

        logging.getLogger(nbits.__name__).setLevel(logging.ERROR)
        model = onnx.load(str(source))
        common: dict[str, Any] = {"block_size": block_size}
        if algorithm == "hqq":
            config = nbits.HQQWeightOnlyQuantConfig(**common, bits=4)
        elif algorithm == "gptq":
            config = nbits.GPTQWeightOnlyQuantConfig(calibration_data_reader=_Reader(samples), **common)
        else:
            config = nbits.DefaultWeightOnlyQuantConfig(**common, is_symmetric=symmetric, accuracy_level=level)
        quantizer = nbits.MatMulNBitsQuantizer(
            model, block_size=block_size, is_symmetric=symmetric, accuracy_level=level, algo_config=config
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(output), False)

    return make


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: list[Feed]) -> None:
        self._samples = samples
        self._left = iter(samples)

    def get_next(self) -> Feed | None:
        return next(self._left, None)

    def rewind(self) -> None:
        self._left = iter(self._samples)
