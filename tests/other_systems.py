"""`python -m tests.other_systems win32|darwin FOLDER`: quantizes as if this Linux were another system.

What Linux has alone goes (files without a name, /proc, CPU affinity), and for Windows all that POSIX has: locks,
links to devices, folders that can be opened. A file that is open or mapped is not renamed or removed there, nor here.
What temporary files of Python do is left to Python.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxq
from onnxq.calibration.checkpoint import Checkpointing
from onnxq.files import whole
from tests.graphs import model_of, normal

_NOWHERE = Path("/nowhere")
_IN_USE = "The process cannot access the file because it is being used by another process"


def _import_all() -> None:
    """Whatever asks for the system while it is imported gets an honest answer."""
    for module in pkgutil.walk_packages(onnxq.__path__, "onnxq."):
        if not module.name.endswith(("__main__", "ray_cluster", "tensorrt_worker")):
            importlib.import_module(module.name)


def _become(system: str) -> None:
    whole._OPEN_FILES = _NOWHERE
    progress = importlib.import_module("onnxq.calibration.progress")
    progress._STATM = _NOWHERE
    del os.sched_getaffinity  # type: ignore[attr-defined]
    if system == "win32":
        del os.getuid, os.sysconf, os.O_NOFOLLOW, os.fork  # type: ignore[attr-defined]
        sys.modules["fcntl"] = sys.modules["resource"] = None  # type: ignore[assignment]
        shutil._use_fd_functions = False  # type: ignore[attr-defined]
        os.open = _opening(os.open)
        for name, places in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
            setattr(os, name, _keeping_what_is_open(getattr(os, name), places))
    sys.platform = system


def _opening(real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, *rest: Any, **options: Any) -> int:
        if not isinstance(path, int) and Path(path).is_dir():
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *rest, **options)

    return opened


def _keeping_what_is_open(real: Callable[..., None], places: int) -> Callable[..., None]:
    def kept(*paths: Any, **options: Any) -> None:
        if sys._getframe(1).f_globals["__name__"] != "tempfile":
            for path in paths[:places]:
                if _is_held(Path(path).absolute()):
                    raise PermissionError(13, _IN_USE, os.fspath(path))
        real(*paths, **options)

    return kept


def _is_held(path: Path) -> bool:
    mapped = any(line.endswith(f" {path}") for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    # The descriptor that lists them is gone when it is looked at.
    descriptors = [one for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return mapped or path in {one.readlink() for one in descriptors}


def _weights_count_as_large() -> None:
    """From a kilobyte on, whatever module took the number over."""
    for name, module in list(sys.modules.items()):
        for constant in ("LARGE_BYTES", "SCRATCH_BYTES"):
            if name.startswith("onnxq.") and hasattr(module, constant):
                setattr(module, constant, 1000)


def _use(folder: Path) -> None:
    """What touches files, one thing after the other; a file that is there is replaced."""
    model, output = folder / "m.onnx", folder / "q.onnx"
    data = str(folder / "d.npz")
    for target in ("ort-x64-vnni", "tensorrt"):
        onnxq.quantize(model, data, target=target, output=output, force=True, recover="best")
    kept = onnxq.quantize(model, data, target="ort-x64-vnni", output=output, force=True)
    assert onnxq.quantize(model, data, target="ort-x64-vnni", output=output, force=True).report
    assert kept.report
    for mode in ("dynamic", "weight-only"):
        onnxq.quantize(model, mode=mode, target="ort-x64-vnni", output=output, force=True)  # type: ignore[arg-type]
    stats = onnxq.calibrate(
        model, data, target="ort-x64-vnni", checkpoint=Checkpointing(path=folder / "c.ckpt", every_s=1e-6)
    )
    stats.save(folder / "s.stats")
    onnxq.quantize(model, data, target="ort-x64-vnni", stats=folder / "s.stats", min_sqnr=10)
    assert onnxq.verify(model, output, data, target="ort-x64-vnni")
    onnxq.evaluate(model, output, data=data)
    onnxq.sensitivity(model, data, target="ort-x64-vnni")
    onnxq.quantize(model, data, target="ort-x64-vnni", output=output, force=True)
    onnxq.strip(output)


def main(system: str, folder: Path) -> None:
    """Do all that with small weights and with large ones, and see that nothing else is left."""
    text = "(float[N,300] x) => (float[N,40] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
    made = model_of(text, w=normal(300, 400), v=normal(400, 40))
    onnx.save(made, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    np.savez_compressed(folder / "d.npz", x=normal(12, 300))
    temporary = folder / "temporary"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    _import_all()
    _become(system)
    _use(folder)
    _weights_count_as_large()
    _use(folder)
    assert (folder / "q.onnx.data").exists(), "weights that count as large lie beside their model"
    left = [path.name for path in (*folder.glob(".*"), *temporary.iterdir())]
    assert left == [], left


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
