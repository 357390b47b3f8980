"""The options that shaped a quantized model, kept in its metadata so that it can be made again.

    onnxq.options    JSON object: each keyword of `onnxq.quantize` that was given and differs from its default

What cannot change the result is left out: where it is written, how many threads compute it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from onnxq.data.description import Data
from onnxq.data.images import ImageOptions, for_model, image_options
from onnxq.errors import ArtifactError, ConfigError
from onnxq.keywords import defaults_of
from onnxq.planning.modes import STATIC
from onnxq.planning.overrides import Override
from onnxq.report.gates import GateKeywords
from onnxq.report.run_options import FROM_A_FILE
from onnxq.search.budget import SearchKeywords

OPTIONS_KEY = "onnxq.options"

# Statistics stand for data: they give the same bytes. Gates are asked of the result.
_NOT_RECORDED = frozenset({"stats", "threads", "memory_limit", "search", *defaults_of(GateKeywords)})

_OF_A_SEARCH = frozenset(defaults_of(SearchKeywords))

_INPUT_FILES = frozenset({"tensorrt_cache", "ranking"})


def record_options(group: type, given: Mapping[str, object], *, mode: str = STATIC, data: Any = None) -> str:
    """The options as JSON.

    Args:
        group: The keywords that there are.
        given: Those that were given.
        mode: What the model is turned into.
        data: The data; of Data what they say is recorded, for it is part of how samples are read.
    """
    left_out = _NOT_RECORDED if given.get("search", True) else _NOT_RECORDED | _OF_A_SEARCH
    defaults = {**defaults_of(group), "mode": STATIC}
    plain = {name: _plain(value) for name, value in {**given, "mode": mode}.items() if name not in left_out}
    changed = {
        name: FROM_A_FILE if name in _INPUT_FILES else value
        for name, value in plain.items()
        if value != _plain(defaults[name])
    }
    if isinstance(data, Data) and data.recorded:
        changed["data"] = data.recorded
    return json.dumps(changed, sort_keys=True, separators=(",", ":"))


def recall_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The options that `record_options` wrote, as keyword arguments; under "data" what was said of the samples.

    Args:
        metadata: Entries of a quantized model.

    Raises:
        ArtifactError: there are none, they are damaged, or the model was made from a file that is not in them.
    """
    try:
        options = json.loads(metadata[OPTIONS_KEY])
        images = options.get("images")
        if isinstance(images, dict):
            listed: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in images.items()
            }
            options["images"] = ImageOptions(**listed)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"the model does not say with which options it was made ({type(error).__name__}: {error})",
            hint="only a model that this version of onnxq wrote can be made again",
        ) from error
    if lacking := [name for name, value in options.items() if value == FROM_A_FILE]:
        raise ArtifactError(
            f"the model was made with {lacking[0]}=, whose content it does not hold",
            hint="quantize with the same file again and compare the files",
        )
    return dict(options)


def recorded_image_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) of the images that a quantized model was calibrated on; None where its options do not tell.

    Args:
        metadata: Of any model.
    """
    try:
        images = for_model(image_options(recall_options(metadata).get("images")), metadata)
    except (ArtifactError, ConfigError):
        return None
    return None if images is None else images.size


def _plain(value: Any) -> Any:
    """`value` in JSON's types; tuples and lists are one."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return _plain(asdict(value)) if isinstance(value, (ImageOptions, Override)) else FROM_A_FILE
