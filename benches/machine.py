"""Where and when a measurement was taken."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INT8_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
PACKAGES = ("onnxruntime", "onnx", "numpy")


def facts() -> dict[str, str]:
    """Processor, versions, commit and date, as a reader of the results needs them."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "Processor": f"{_processor()}, {os.cpu_count()} cores; int8 flags: {', '.join(_flags()) or 'none'}"
        + (", of which onnxruntime was shown avx2 alone (benches/without_vnni.py)" if _without_vnni() else ""),
        "Software": f"Python {platform.python_version()}, {versions}, {platform.system()}",
        "onnxq": f"commit {_commit()}",
        "Date": datetime.datetime.now(tz=datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def busy_seconds() -> float | None:
    """Processor time that all processes of the machine have taken together; None where that is not known."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    user, nice, system, _, _, *interrupts = map(int, path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(key)), "")


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _flags() -> list[str]:
    present = set((_cpuinfo("flags") or _cpuinfo("features")).split())
    return [flag for flag in INT8_FLAGS if flag in present]


def _without_vnni() -> bool:
    """Whether the onnxruntime that was imported is a copy that `benches.without_vnni` made."""
    path = Path("/proc/self/maps")
    return path.is_file() and "/without_vnni.so" in path.read_text(encoding="utf-8", errors="replace")


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    return commit + (" with uncommitted changes" if git("status", "--porcelain", "--", "onnxq") else "")
