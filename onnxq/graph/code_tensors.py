"""Codes as initializers, in types that numpy has and in those that it lacks (4-bit integers, 8-bit floats)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxq.errors import DataError, ModelError
from onnxq.graph.messages import tensor_bytes, tensor_value
from onnxq.numerics.packing import pack_codes, unpack_codes
from onnxq.numerics.qtypes import QTYPES, QType

_BY_ONNX_TYPE = {qtype.onnx_type: qtype for qtype in QTYPES.values()}


def qtype_of(onnx_type: int) -> QType | None:
    """The quantized type with this TensorProto.DataType, or None."""
    return _BY_ONNX_TYPE.get(onnx_type)


def code_tensor(codes: NDArray[Any], qtype: QType, name: str) -> TensorProto:
    """The initializer that holds `codes`.

    Args:
        codes: Integers that the type can hold, or bit patterns of a float type, any shape.
        qtype: Their type.
        name: Name of the initializer.

    Raises:
        DataError: a code is outside the type.
    """
    if qtype.bits >= 8 and not qtype.is_float:
        return numpy_helper.from_array(np.asarray(codes, qtype.dtype, order="C"), name)
    return TensorProto(name=name, data_type=qtype.onnx_type, dims=np.shape(codes), raw_data=pack_codes(codes, qtype))


def code_values(proto: TensorProto, base_dir: Path | None) -> NDArray[Any]:
    """The codes in an initializer, as the numpy dtype of their type carries them.

    Args:
        proto: An initializer of a quantized type.
        base_dir: Folder of the model, for external data.

    Raises:
        ModelError: the data is missing or damaged, or the type is none of codes.
    """
    qtype = qtype_of(proto.data_type)
    where = f"initializer {proto.name!r}"
    if qtype is None:
        raise ModelError(f"its type {TensorProto.DataType.Name(proto.data_type)} is none of codes", where=where)
    if qtype.bits >= 8 and not qtype.is_float:
        return tensor_value(proto, base_dir)
    data = tensor_bytes(proto, base_dir)
    if data is None:
        # Typed fields hold as many codes in an entry as a byte does.
        data = np.asarray(proto.int32_data, np.int64).astype(np.uint8).tobytes()
    try:
        return unpack_codes(data, proto.dims, qtype)
    except DataError as error:
        raise ModelError(f"its data cannot be read: {error.message}", where=where) from error
