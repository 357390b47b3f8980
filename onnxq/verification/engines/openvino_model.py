"""Models loaded into OpenVINO's CPU plugin."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.errors import ModelError, OnnxqError
from onnxq.files.scratch import scratch_folder
from onnxq.verification.engines.source import model_file

FLOAT32 = "f32"
_PRECISION = "INFERENCE_PRECISION_HINT"
_DEVICE = "CPU"


@functools.cache
def core() -> Any:
    """OpenVINO's `Core`, one for the life of the process.

    The CPU plugin of a Core sets the stack on which signals are handled (sigaltstack), and puts
    the one before it back when it goes. Of two Cores that go in the order they came, the second leaves the freed stack
    of the first, and the next signal, a Ctrl-C say, ends the process with a segmentation fault (seen with 2026.4).
    """
    import openvino  # noqa: PLC0415  # an optional package

    return openvino.Core()


def version() -> str:
    """OpenVINO's version, without the build."""
    import openvino  # noqa: PLC0415  # an optional package

    return str(openvino.__version__).partition("-")[0]


def own_precision() -> str:
    """The type in which OpenVINO computes what is float on this machine unless told otherwise (V11): "bf16", say."""
    return str(core().get_property(_DEVICE, _PRECISION).get_type_name())


class OpenvinoModel:
    """A model compiled by OpenVINO's CPU plugin, callable on a feed.

    Args:
        model: The model.
        base_dir: Folder of the external data that it refers to.
        threads: Threads to compute on; None lets OpenVINO choose.
        precision: Type in which float operators compute, as OpenVINO names it.
        properties: More properties of the compiled model.

    Attributes:
        compiled: OpenVINO's `CompiledModel`.

    Raises:
        ConfigError: there is no room in the temporary folder.
        ModelError: OpenVINO cannot compile the model; see `said`.
    """

    def __init__(
        self,
        model: ModelProto,
        *,
        base_dir: Path | None = None,
        threads: int | None = None,
        precision: str = FLOAT32,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        settings: dict[str, str | int] = {_PRECISION: precision, "PERFORMANCE_HINT": "LATENCY", **(properties or {})}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            with scratch_folder() as folder:
                read = core().read_model(str(model_file(model, folder, base_dir)))
                self.compiled = core().compile_model(read, _DEVICE, settings)
        except OnnxqError:
            raise  # nothing that OpenVINO said of the model
        except Exception as error:  # openvino raises plain RuntimeError and others
            raise ModelError(f"OpenVINO cannot compile the model: {_last_line(error)}") from error
        self._request = self.compiled.create_infer_request()
        self._inputs = _inputs_by_name(model, self.compiled.inputs)
        # OpenVINO has names of what it merged with an output, too.
        ports = [(name, port) for port in self.compiled.outputs for name in port.get_names()]
        wanted = {output.name for output in model.graph.output}
        self._outputs = [(name, port) for name, port in ports if name in wanted]

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch.

        Args:
            feed: An array for each input of the model.

        Returns:
            An array for each output of the model.

        Raises:
            ModelError: OpenVINO fails while running.
        """
        try:
            given = {self._inputs[n]: np.asarray(v) for n, v in feed.items() if n in self._inputs}
            result = self._request.infer(given)
        except Exception as error:  # openvino raises plain RuntimeError and others
            raise ModelError(f"OpenVINO cannot run the model: {_last_line(error)}") from error
        return {name: np.array(result[port]) for name, port in self._outputs}


def _inputs_by_name(model: ModelProto, ports: Sequence[Any]) -> dict[str, Any]:
    """The inputs of a compiled model by their names in `model`.

    One that is an output too, behind an Identity or a Dropout, has only the output's name there: its place tells it.
    """
    named = {name: port for port in ports for name in port.get_names()}
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in constants]
    if len(names) == len(ports):
        named |= {name: port for name, port in zip(names, ports, strict=True) if name not in named}
    return named


def said(error: OnnxqError) -> str:
    """What OpenVINO itself said where a model of it raised `error`."""
    return _last_line(error.__cause__) if isinstance(error.__cause__, Exception) else error.message


def _last_line(error: Exception) -> str:
    """The sentence in which an error of OpenVINO ends, behind places in its source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
