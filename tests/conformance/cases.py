"""The models of `onnx.backend.test`, each in up to three forms.

as is       the model of the test
constant    all inputs but the first are initializers, for operators whose second input is a weight: exporters write
            it so, the tests of operators do not
beside      with a linear layer beside it, input to output, so that a quantized model comes out whatever the test's
            own operators are; its outputs must come out as before
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
FORMS = ("as is", "constant", "beside")
COMPANION = "onnxq_companion"
FEATURES = 32
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: Name of the test, with the form.
        kind: Kind of the test.
        model: The model.
        feeds: Its inputs by name, one mapping for each data set.
    """

    name: str
    kind: str
    model: ModelProto
    feeds: tuple[Mapping[str, Any], ...]


@functools.cache
def tests() -> tuple[tuple[str, Any], ...]:
    """Kind and test case of every test, in the order of onnx."""
    from onnx.backend.test.loader import load_model_tests  # noqa: PLC0415 - slow to load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some tests are about overflow
        return tuple((kind, test) for kind in KINDS for test in load_model_tests(kind=kind))


def cases(index: int) -> list[Case]:
    """The forms of test number `index`."""
    kind, test = tests()[index]
    model, data = _loaded(test)
    names = _input_names(model)
    feeds = [dict(zip(names, inputs, strict=False)) for inputs in data]
    found = [Case(f"{test.name} (as is)", kind, model, tuple(feeds))]
    if any(n.op_type in _WEIGHTED for n in model.graph.node) and len(names) > 1:
        found.append(
            Case(f"{test.name} (constant)", kind, _with_constants(model, names[1:], feeds[0]), _only(feeds, names[:1]))
        )
    if kind in ("node", "simple") and feeds and COMPANION not in names:
        rng = np.random.default_rng(index)
        fed = [{**feed, COMPANION: rng.standard_normal((4, FEATURES)).astype(np.float32)} for feed in feeds]
        found.append(Case(f"{test.name} (beside)", kind, _with_companion(model), tuple(fed)))
    return found


def _loaded(test: Any) -> tuple[ModelProto, list[Sequence[Any]]]:
    if test.model is not None:
        return test.model, [inputs for inputs, _ in test.data_sets]
    folder = Path(test.model_dir)
    model = onnx.load(folder / "model.onnx")
    data = []
    for one in sorted(folder.glob("test_data_set_*")):
        files = sorted(one.glob("input_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
        data.append([_array(p.read_bytes()) for p in files])
    return model, data


def _array(data: bytes) -> Any:
    tensor = TensorProto()
    tensor.ParseFromString(data)
    return numpy_helper.to_array(tensor)


def _input_names(model: ModelProto) -> list[str]:
    constants = {t.name for t in model.graph.initializer}
    return [v.name for v in model.graph.input if v.name not in constants]


def _only(feeds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    return tuple({name: feed[name] for name in names} for feed in feeds)


def _with_constants(model: ModelProto, names: Sequence[str], feed: Mapping[str, Any]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    kept = [v for v in changed.graph.input if v.name not in names]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    changed.graph.initializer.extend(numpy_helper.from_array(np.asarray(feed[name]), name) for name in names)
    return changed


def _with_companion(model: ModelProto) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    weight = (np.random.default_rng(0).standard_normal((FEATURES, FEATURES)) / 6).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, f"{COMPANION}_weight"))
    graph.input.append(helper.make_tensor_value_info(COMPANION, TensorProto.FLOAT, [4, FEATURES]))
    graph.output.append(helper.make_tensor_value_info(f"{COMPANION}_output", TensorProto.FLOAT, [4, FEATURES]))
    graph.node.append(
        helper.make_node("MatMul", [COMPANION, f"{COMPANION}_weight"], [f"{COMPANION}_output"], name=COMPANION)
    )
    if not any(entry.domain in ("", "ai.onnx") for entry in changed.opset_import):
        changed.opset_import.append(helper.make_opsetid("", 17))
    if changed.ir_version < 4:
        tensor = graph.initializer[-1]
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return changed
