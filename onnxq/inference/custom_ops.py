"""Libraries with operators of their own, which every session of this process then knows.

onnxruntime takes such libraries session by session (`SessionOptions.register_custom_ops_library`,
https://onnxruntime.ai/docs/reference/operators/add-custom-op.html). They are native code, so none is loaded that the
user does not name. What they compute stays float: nothing is known of it but what runs show.
"""

from __future__ import annotations

import os
from pathlib import Path

from onnxq.errors import ConfigError
from onnxq.runtime import ort

_libraries: list[str] = []


def register_custom_ops(library: str | os.PathLike[str]) -> None:
    """Let onnxq run models with operators from a library of yours, for the rest of the process.

    Nodes with such operators stay float. Workers of `calibrate(ray=)` load the library from the same place.

    Args:
        library: Path of a shared library for onnxruntime (.so, .dll, .dylib), such as
            `onnxruntime_extensions.get_library_path()`. It is native code that runs with your rights.

    Raises:
        ConfigError: there is no such file, or onnxruntime cannot load it.
    """
    path = str(Path(library).absolute())
    if path in _libraries:
        return
    where = f"custom operators {str(library)!r}"
    hint = "pass the path of a shared library: onnxq.register_custom_ops(path) (--custom-ops LIB)"
    if not Path(path).is_file():
        raise ConfigError("there is no such file", where=where, hint=hint)
    try:
        ort.SessionOptions().register_custom_ops_library(path)
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        raise ConfigError(f"onnxruntime cannot load this library: {error}", where=where, hint=hint) from error
    _libraries.append(path)


def custom_op_libraries() -> tuple[str, ...]:
    """Absolute paths of the libraries so far."""
    return tuple(_libraries)


def session_options() -> ort.SessionOptions:
    """Options of a session, with the operators of all libraries."""
    options = ort.SessionOptions()
    for path in _libraries:
        options.register_custom_ops_library(path)
    return options
