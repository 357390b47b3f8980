"""The targets, by name."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from onnxq.errors import ConfigError
from onnxq.targets.custom import load_target
from onnxq.targets.openvino import OPENVINO, OPENVINO_AVX2
from onnxq.targets.ort_cpu import ORT_ARM64, ORT_X64_AVX2, ORT_X64_VNNI
from onnxq.targets.qnn import QNN
from onnxq.targets.schema import Target
from onnxq.targets.tensorrt import TENSORRT
from onnxq.targets.xnnpack import XNNPACK
from onnxq.wording.targets import closest_target

TARGETS: dict[str, Target] = {
    t.name: t for t in (ORT_X64_AVX2, ORT_X64_VNNI, ORT_ARM64, TENSORRT, OPENVINO, OPENVINO_AVX2, QNN, XNNPACK)
}
ORT_CPU = "ort-cpu"
"""The name that stands for ONNX Runtime on the CPU of this machine."""

TARGET_NAMES = (ORT_CPU, *TARGETS)

TARGET_FILE_SUFFIX = ".toml"

TargetSource = str | os.PathLike[str] | Target
"""What a target may be given as: a name, the path of a .toml file, or a table."""


def resolve_target(name: TargetSource, *, weights_alone: bool = False) -> tuple[Target, str | None]:
    """The table that `name` stands for, and a note where a choice was made.

    Args:
        name: A name, the path of a .toml file, or a table.
        weights_alone: Whether weights are multiplied in float, in which nothing saturates.

    Raises:
        ConfigError: there is no such target, or the file of one is wrong.
    """
    if isinstance(name, Target):
        return name, None
    if not isinstance(name, (str, os.PathLike)):
        raise ConfigError(
            f"target is {name!r}, expected a name or the path of a .toml file",
            hint=f"pass one of target={', '.join(map(repr, TARGET_NAMES))} (--target)",
        )
    if isinstance(name, os.PathLike) or str(name).lower().endswith(TARGET_FILE_SUFFIX):
        return load_target(Path(name), TARGETS), f"the target's table comes from {os.fspath(name)}"
    if name == OPENVINO.name and _is_x64() and not weights_alone and not cpu_has_vnni():
        return OPENVINO_AVX2, (
            "openvino means openvino-avx2 on this machine (no VNNI): weights that could saturate are guarded"
        )
    if name in TARGETS:
        return TARGETS[name], None
    if name != ORT_CPU:
        close = closest_target(str(name), TARGET_NAMES)
        raise ConfigError(
            f"unknown target {name!r}; known: {', '.join(TARGET_NAMES)}",
            hint=f"did you mean target={close!r} (--target {close})?" if close else None,
        )
    table, remark = _ort_of_this_machine()
    return table, f"ort-cpu means {table.name} on this machine{'' if weights_alone else remark}"


def absent_machine(name: str) -> str | None:
    """The kind of machine that one of ONNX Runtime's targets is for, where this one is of another kind; else None."""
    if name == ORT_ARM64.name:
        return None if _is_arm64() else "ARM64"
    return "x64" if name in {ORT_X64_VNNI.name, ORT_X64_AVX2.name} and _is_arm64() else None


def _ort_of_this_machine() -> tuple[Target, str]:
    """ONNX Runtime's table for this CPU, and what a user should know of that choice."""
    if _is_arm64():
        return ORT_ARM64, ""
    vnni = cpu_has_vnni()
    if vnni:
        return ORT_X64_VNNI, "; for CPUs without VNNI quantize with target ort-x64-avx2"
    if vnni is None:
        return ORT_X64_AVX2, (
            ", which does not tell of VNNI: weights that could saturate are guarded; for CPUs with VNNI quantize with "
            "target ort-x64-vnni"
        )
    return ORT_X64_AVX2, " (no VNNI): weights that could saturate are guarded"


def _is_arm64() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def _is_x64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def cpu_has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether this x64 CPU multiplies u8 by s8 without saturating (AVX512-VNNI or AVX-VNNI); None where the system does
    not tell (Windows, macOS)."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), None)
    return None if flags is None else "avx512_vnni" in flags or "avx_vnni" in flags
