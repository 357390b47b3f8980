"""Execution providers of onnxruntime, by the names that users give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxq.errors import ConfigError

PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
}
"""onnxruntime's own names are taken too."""

DEFAULT_PROVIDERS = ("CPUExecutionProvider",)


def provider_names(providers: Sequence[str] | str) -> tuple[str, ...]:
    """The names that were given; commas may join several.

    >>> provider_names("cuda,cpu")
    ('cuda', 'cpu')
    """
    given = [providers] if isinstance(providers, str) else providers
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def full_names(providers: Sequence[str] | str | None) -> tuple[str, ...]:
    """Providers by onnxruntime's names; None means the CPU."""
    if providers is None:
        return DEFAULT_PROVIDERS
    return tuple(dict.fromkeys(PROVIDERS.get(name.lower(), name) for name in provider_names(providers)))


def known_providers(providers: Sequence[str] | str | None, available: Sequence[str]) -> list[str]:
    """Providers by onnxruntime's names, in fall-back order.

    Raises:
        ConfigError: one of them is not among those `available`, or there is none.
    """
    full = full_names(providers)
    if full and set(full) <= set(available):
        return list(full)
    unknown = [name for name in provider_names(providers or ()) if PROVIDERS.get(name.lower(), name) not in available]
    short = {name: key for key, name in PROVIDERS.items()}
    missing = ", ".join(map(repr, unknown))
    raise ConfigError(
        f"onnxruntime has no execution provider {missing} here" if unknown else "no execution provider is named",
        hint=f"providers= (--ep) can name {', '.join(short.get(name, name) for name in available)}; "
        "others come with other onnxruntime packages.",
    )
