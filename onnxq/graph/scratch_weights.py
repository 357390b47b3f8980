"""Float constants that a model with many weights gets on its way, in a temporary file.

What passes make of weights, such as float32 of float16 ones, would together be as large as the model. So they lie in a
file as the model's own weights do, and whatever reads those reads these.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

from onnx import TensorProto

from onnxq.files.scratch import ScratchFolder, blamed_on_room
from onnxq.files.whole import Draft
from onnxq.graph.external_data import draft_of, in_draft, is_external, weights_are_large
from onnxq.graph.weights_file import WeightsFile

_NAME = "onnxq-weights"
_FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def scratch_file(tensor: TensorProto) -> Path | None:
    """The temporary file that the data of `tensor` lies in; None where it lies elsewhere."""
    path = draft_of(tensor)
    return path if path is not None and path.name == _NAME else None


def is_of_large_model(tensors: Iterable[TensorProto]) -> bool:
    """Whether `tensors` are the weights of a large model: much of them, or what is being written tensor by tensor."""
    weights = list(tensors)
    return weights_are_large(weights) or any(in_draft(t) and scratch_file(t) is None for t in weights)


class ScratchWeights:
    """A file in a folder of its own, which lives as long as the object. Threads may share it.

    What is written is never taken back: a constant that is replaced again and again takes room each time.
    """

    def __init__(self) -> None:
        """Make it.

        Raises:
            ConfigError: there is no room for temporary files.
        """
        self._folder = ScratchFolder()
        path = Path(self._folder.name) / _NAME
        stream = path.open("xb")
        weakref.finalize(self, stream.close)
        self._file = WeightsFile(Draft(path, stream, path))
        self._lock = threading.Lock()

    def stored(self, tensor: TensorProto) -> TensorProto:
        """`tensor` with its data in the file; a small one, codes, and what lies in a file already, as it is.

        Raises:
            ConfigError: there is no room for it.
        """
        if tensor.data_type not in _FLOAT_TYPES or is_external(tensor):
            return tensor
        with self._lock, blamed_on_room(Path(self._folder.name)):
            return self._file.moved(tensor)
