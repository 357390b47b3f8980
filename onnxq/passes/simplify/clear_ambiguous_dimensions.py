"""Placeholders that exporters write for a size they do not know become unknown sizes.

Sizes that share a name are equal by the ONNX specification
(https://onnx.ai/onnx/repo-docs/IR.html#static-tensor-shapes). Paddle calls height and width both `?`, and TensorRT then
refuses every input that is not square.
"""

from __future__ import annotations

import re

from onnx import ValueInfoProto

from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassLog, PassResult

_PLACEHOLDER = re.compile(r"\?|-\d+|none|null|unknown|unk__\d+|\s*", re.IGNORECASE)


class ClearAmbiguousDimensions(Pass):
    """Forget dimension names that name nothing.

    1. A name such as `?`, `-1`, `None`, `unknown`, `unk__12` or blank becomes unknown, on inputs, outputs and between.
    2. A negative size becomes unknown.
    3. Any other name, and every size from 0 up, stays: a name that two tensors share says that the sizes are equal.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for group in (graph.inputs, graph.outputs):
            for name, value in group.items():
                if (cleared := _cleared(value)) is not None:
                    group[name] = cleared
                    log.edit(f"{name}: placeholder dimensions are unknown now")
        infos = {}
        for name, value in graph.value_infos.items():
            cleared = _cleared(value)
            infos[name] = value if cleared is None else cleared
            if cleared is not None:
                log.edit(f"{name}: placeholder dimensions are unknown now")
        if log.edits:
            graph.set_value_info(infos.values())
        return log.result(graph)


def _cleared(value: ValueInfoProto) -> ValueInfoProto | None:
    if value.type.WhichOneof("value") != "tensor_type":
        return None
    own = ValueInfoProto()
    own.CopyFrom(value)
    found = False
    for dim in own.type.tensor_type.shape.dim:
        named = dim.HasField("dim_param") and _PLACEHOLDER.fullmatch(dim.dim_param)  # case 1
        negative = dim.HasField("dim_value") and dim.dim_value < 0  # case 2
        if named or negative:
            dim.ClearField("dim_param")
            dim.ClearField("dim_value")
            found = True
    return own if found else None
