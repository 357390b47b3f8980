"""onnxruntime, imported so that it sends nothing and leaves nothing behind.

Recent official builds (1.32 for Linux was looked at) carry a telemetry client that is on by default: importing them
opens a database under `~/.cache`, writes `.ses` into the temporary folder, and may send events over HTTPS. It can be
left out only for the process as a whole, by `ORT_DISABLE_TELEMETRY` at the time of the import
(https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md). A value that the user has set is kept, and the
environment is afterwards as before. A program that imports onnxruntime before onnxq has decided for itself.
"""

from __future__ import annotations

import os

_SWITCH = "ORT_DISABLE_TELEMETRY"
_decided = _SWITCH in os.environ
os.environ.setdefault(_SWITCH, "1")
try:
    import onnxruntime as ort
finally:
    if not _decided:
        os.environ.pop(_SWITCH, None)

__all__ = ["ort"]
