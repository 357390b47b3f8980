"""Whose fault a failure is: a malformed model is not a bug in onnxq.

onnx's checker does not see every contradiction in a model, such as parameters of different lengths. Where the work on a
model fails, onnxruntime is asked: what it does not load either is refused, and all else stays a bug.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnxq.errors import ModelError, OnnxqError
from onnxq.graph.view import Graph
from onnxq.inference.session import make_session


@contextlib.contextmanager
def blamed_on(model: Graph) -> Iterator[None]:
    """A failure in the block becomes a ModelError where onnxruntime cannot load `model`.

    Raises:
        ModelError: the block failed, and onnxruntime refuses the model.
    """
    try:
        yield
    except (OnnxqError, MemoryError):
        raise
    except Exception as error:
        try:
            make_session(model.to_model(), base_dir=model.base_dir)
        except ModelError as refused:
            raise ModelError(
                f"the model contradicts itself: {refused.message}",
                hint="export the model again, and try it in onnxruntime first",
            ) from error
        raise
