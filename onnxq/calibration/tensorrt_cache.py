"""TensorRT's calibration cache: one float32 scale for each tensor, as text.

    TRT-8601-EntropyCalibration2
    images: 3c010a14
    /model.0/conv/Conv_output_0: 3d4c2f11

The first line names the version of TensorRT and the algorithm. Each further line holds a tensor and the bits of its
scale, the float32's most significant digit first; scale = amax / 127, zero-point 0. Source: TensorRT's sampleINT8,
"Calibration file", and IInt8Calibrator.writeCalibrationCache.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from onnxq.calibration.methods import Method
from onnxq.calibration.solve import share_ranges, sound_range
from onnxq.calibration.statistics.table import StatsTable
from onnxq.errors import ArtifactError, ConfigError, InternalError
from onnxq.files.whole import write_kept
from onnxq.numerics.qparams import Range, qparams_from_range
from onnxq.planning.plan import QuantPlan, Role
from onnxq.targets.tensorrt import TENSORRT
from onnxq.wording.plural import counted

DEFAULT_TENSORRT_VERSION = "8.6.1"
"""The last of 8.x. From 10.1 on TensorRT calls its calibrators, which read caches, deprecated."""

ALGORITHM = "EntropyCalibration2"

_STEPS = 127.0
_DIGITS = 8
_HEADER = re.compile(r"TRT-\d+-(\w*Calibration\d*)")
_LINE = re.compile(r"(.+): ?([0-9a-fA-F]{1,8})")
_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class TensorRTCache:
    """A calibration cache.

    Attributes:
        header: Its first line, such as "TRT-8601-EntropyCalibration2".
        scales: float32 scale by tensor name; >= 0 and finite, 0 for a tensor that was always zero.
        replaced: Tensors that got the range of `max` in place of the method's, which would have cut off their signal.
    """

    header: str
    scales: Mapping[str, float]
    replaced: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, scale in self.scales.items():
            if not (math.isfinite(scale) and scale >= 0.0 and float(np.float32(scale)) == scale):
                raise InternalError(f"scale {scale!r} of {name!r} is not a finite float32 number >= 0")
        object.__setattr__(self, "scales", MappingProxyType(dict(self.scales)))

    def ranges(self, plan: QuantPlan) -> dict[str, Range]:
        """[-127 scale, 127 scale] for each activation of a plan, which gives back the scales to the last bit.

        Tensors that have to share a scale get the largest of theirs.

        Raises:
            ConfigError: the plan is not for TensorRT, nor for another target with its form of activations.
            ArtifactError: the cache lacks a tensor.
        """
        activations = [t.spec for t in plan.tensors.values() if t.role is Role.ACTIVATION]
        if plan.target != TENSORRT.name and any(spec != TENSORRT.activation for spec in activations):
            raise ConfigError(
                f"a TensorRT calibration cache holds symmetric int8 scales; {plan.target} needs other ranges",
                hint="pass target='tensorrt' (--target tensorrt), or data= (--data) instead of the cache",
            )
        missing = [name for name in plan.observed() if name not in self.scales]
        if missing:
            shown = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ArtifactError(
                f"the calibration cache lacks {len(missing)} of {counted(len(plan.observed()), 'tensor')} to quantize: "
                f"{shown}",
                hint="was it made for this model? Keep what reads them in float with exclude= (--exclude), "
                "or calibrate on data= (--data) without tensorrt_cache= (--calibration-cache)",
            )
        alone = {name: Range.of(-_STEPS * self.scales[name], _STEPS * self.scales[name]) for name in plan.observed()}
        return share_ranges(plan, alone)


def cache_from_stats(stats: StatsTable, method: Method, *, version: str = DEFAULT_TENSORRT_VERSION) -> TensorRTCache:
    """The cache that TensorRT would read, from statistics.

    Args:
        stats: Of any target: every tensor in them gets a line.
        method: How ranges are chosen.
        version: Of the TensorRT that is to read it; it calibrates anew where its own version differs.

    Raises:
        ConfigError: `version` is none.
        ArtifactError: the statistics hold no tensor.
        DataError: a tensor has no finite element.
    """
    if not len(stats):
        raise ArtifactError(
            "the statistics hold no tensor, so there is no scale to write",
            hint="calibrate for a target= (--target) that quantizes this model",
        )
    spec = TENSORRT.activation
    scales, replaced = {}, []
    for name, found in sorted(stats.items()):
        range_, kept = sound_range(found, spec, method)
        if not kept:
            replaced.append(name)
        is_zero = float(range_.rmin) == float(range_.rmax) == 0.0
        scales[name] = 0.0 if is_zero else float(qparams_from_range(range_, spec).scale)
    return TensorRTCache(header=header_for(version), scales=scales, replaced=tuple(replaced))


def header_for(version: str) -> str:
    """First line for a version of TensorRT.

    The number is NV_TENSORRT_VERSION: major * 1000 + minor * 100 + patch up to 9, major * 10000 and so on from 10.

    Raises:
        ConfigError: `version` does not look like 8.6.1.

    >>> header_for("8.6.1"), header_for("10.3.0")
    ('TRT-8601-EntropyCalibration2', 'TRT-100300-EntropyCalibration2')
    """
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ConfigError(
            f"{version!r} is no version of TensorRT",
            hint="tensorrt_version= (--tensorrt-version) looks like 8.6.1; `trtexec --help` prints it",
        )
    major, minor, patch = map(int, found.groups())
    number = major * (1000 if major < 10 else 10000) + minor * 100 + patch
    return f"TRT-{number}-{ALGORITHM}"


def save_tensorrt_cache(cache: TensorRTCache, path: str | os.PathLike[str]) -> None:
    """Write a cache, which appears whole or not at all.

    Raises:
        ConfigError: it cannot be written.
        ArtifactError: a tensor's name does not fit on a line.
    """
    lines = [cache.header]
    for name, scale in cache.scales.items():
        if name != name.strip() or not name or "\n" in name or "\r" in name:
            raise ArtifactError(
                f"the name of tensor {name!r} cannot be written to a calibration cache", where=str(path)
            )
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    content = "".join(f"{line}\n" for line in lines).encode()
    write_kept(Path(path), content, what="the calibration cache", hint="choose a writable place with output= (-o)")


def load_tensorrt_cache(path: str | os.PathLike[str]) -> TensorRTCache:
    """Read a cache that TensorRT, trtexec or `save_tensorrt_cache` wrote, of any of TensorRT's algorithms.

    Raises:
        ArtifactError: it is missing, damaged, or no calibration cache.
    """
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise ArtifactError(
            f"cannot read the calibration cache: {error.strerror or error}",
            where=str(path),
            hint="check the path in tensorrt_cache= (--calibration-cache)",
        ) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is not UTF-8 text") from error
    header, *lines = text.splitlines() or [""]
    if lines and _is_cut_off(text):
        raise _damaged(path, f"its end is missing: line {len(lines) + 1} is {lines[-1][:60]!r}")
    if _HEADER.fullmatch(header.strip()) is None:
        raise _damaged(path, f"its first line is {header[:60]!r}, not TRT-<version>-EntropyCalibration2")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        if line.strip():
            name, scale = _parsed(line.strip(), f"line {number}", path)
            if name in scales:
                raise _damaged(path, f"line {number} names tensor {name!r} again")
            scales[name] = scale
    if not scales:
        raise _damaged(path, "it holds no tensor")
    return TensorRTCache(header=header.strip(), scales=scales)


def _is_cut_off(text: str) -> bool:
    """Whether the last line lacks digits: TensorRT ends every line, and leaves out nothing but leading zeros."""
    found = _LINE.fullmatch(text[max(text.rfind("\n"), 0) :].strip())
    return found is not None and len(found[2]) < _DIGITS and bool(found[2].strip("0"))


def _parsed(line: str, number: str, path: str | os.PathLike[str]) -> tuple[str, float]:
    # A name may hold ": " itself: the last one counts.
    found = _LINE.fullmatch(line)
    if found is None:
        raise _damaged(path, f"{number} is {line[:60]!r}, not a name and hexadecimal digits")
    name, digits = found.groups()
    (scale,) = struct.unpack(">f", bytes.fromhex(digits.zfill(_DIGITS)))
    if not (math.isfinite(scale) and scale >= 0.0):
        raise _damaged(path, f"{number} gives tensor {name!r} the scale {scale:g}")
    return name, scale


def _damaged(path: str | os.PathLike[str], why: str) -> ArtifactError:
    return ArtifactError(
        f"this is no TensorRT calibration cache, or a damaged one: {why}",
        where=str(path),
        hint="pass the text file that TensorRT's calibrator or `onnxq cache` wrote",
    )
