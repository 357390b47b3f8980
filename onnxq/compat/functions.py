"""`quantize_static`, `quantize_dynamic` and `quant_pre_process` with onnxruntime's signatures."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.compat.extra_options import ExtraOptions, read_extra_options
from onnxq.compat.names import CalibrationMethod, CompatWarning, QuantFormat, QuantType, member
from onnxq.errors import ConfigError
from onnxq.keywords import guesses

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxq.modes.result import QuantizeResult
    from onnxq.targets import TargetSource

    Model = str | os.PathLike[str] | bytes | ModelProto

_TENSORRT = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


@guesses
def quantize_static(  # noqa: PLR0913, PLR0917 - onnxruntime's signature
    model_input: Model,
    model_output: str | os.PathLike[str],
    calibration_data_reader: Any = None,
    quant_format: Any = QuantFormat.QDQ,
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool | None = None,
    reduce_range: bool = False,
    activation_type: Any = None,
    weight_type: Any = None,
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    calibrate_method: Any = None,
    calibration_providers: Sequence[str] | None = None,
    extra_options: Mapping[str, Any] | None = None,
    calibration_cache_path: str | os.PathLike[str] | None = None,
    *,
    target: TargetSource | None = None,
) -> QuantizeResult:
    """As `onnxruntime.quantization.quantize_static`, made and proven by onnxq.

    What is left at None is chosen by onnxq: weights with a scale for each channel, the method "auto", and the types
    that the target's kernels take.

    Args:
        model_input: The float model. There is nothing to pre-process.
        model_output: Where to write; a file that is there is replaced.
        calibration_data_reader: Anything that onnxq takes as data, a CalibrationDataReader among them.
        quant_format: QDQ; QOperator is written as QDQ, too.
        op_types_to_quantize: Operators to quantize; None or [] for all that the target can.
        per_channel: Whether weights have a scale for each channel.
        reduce_range: Whether weights are kept from overflowing int16 on x64 CPUs without VNNI.
        activation_type: QUInt8 and QInt8 are the same codes shifted by 128; the target's kernels decide.
        weight_type: QInt8 or QUInt8.
        nodes_to_quantize: Names of the only nodes to quantize.
        nodes_to_exclude: Names of nodes to keep in float.
        use_external_data_format: Whether weights go into a file of their own beside the model.
        calibrate_method: MinMax, Entropy or Percentile.
        calibration_providers: onnxruntime's execution providers for calibration.
        extra_options: See docs/from-onnxruntime.md for what becomes of each key; misspelt keys are errors.
        calibration_cache_path: File of onnxq's statistics: read if it is there, else written.
        target: Which engine the model is for; by default TensorRT where `calibration_providers` names it first, else
            onnxruntime on this machine's CPU.

    Returns:
        What `onnxq.quantize` returns: model, plan, statistics and report.

    Raises:
        ConfigError: something is asked for that cannot be had, or an argument or key is wrong.
        ModelError: as `onnxq.quantize`.
        DataError: as `onnxq.quantize`.
        ArtifactError: the cache belongs to another model, or was not written by onnxq.
    """
    extra = read_extra_options(extra_options)
    model_input = _kept(model_input, model_output)
    _tell(extra.remarks)
    if member(quant_format, QuantFormat, "quant_format") == "QOperator":
        _tell(["quant_format=QOperator: Q/DQ pairs are written, which onnxruntime runs by the same kernels"])
    table = _table(target, calibration_providers, reduce_range=reduce_range, extra=extra)
    overrides = _types(activation_type, weight_type, per_channel)
    selection = _Selection.of(
        model_input, table, op_types_to_quantize, nodes_to_quantize, nodes_to_exclude, extra.constant_b_only
    )
    from onnxq.api.calibrate import calibrate  # noqa: PLC0415
    from onnxq.api.quantize import quantize  # noqa: PLC0415 - keeps the import of this module quick

    method = _method(calibrate_method, extra)
    placing: dict[str, Any] = {**selection.keywords(), "overrides": (*overrides, *extra.overrides), "target": table}
    placing["providers"] = calibration_providers or None
    stats = None
    if calibration_cache_path is not None:
        stats = _cached(Path(calibration_cache_path))
        if stats is None:
            if calibration_data_reader is None:
                raise _no_data()
            reader = _rereadable(calibration_data_reader)
            stats = calibrate(model_input, reader, **placing)
            stats.save(Path(calibration_cache_path))
            calibration_data_reader = reader
    elif calibration_data_reader is None:
        raise _no_data()
    result = quantize(
        model_input,
        calibration_data_reader,
        stats=stats,
        recover=("smooth", "bias") if extra.smooth else "fast",
        output=model_output,
        force=True,
        **method,
        **placing,
    )
    return _finished(result, external=use_external_data_format)


@guesses
def quantize_dynamic(  # noqa: PLR0913, PLR0917 - onnxruntime's signature
    model_input: Model,
    model_output: str | os.PathLike[str],
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool | None = None,
    reduce_range: bool = False,
    weight_type: Any = None,
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    extra_options: Mapping[str, Any] | None = None,
    *,
    target: TargetSource | None = None,
) -> QuantizeResult:
    """As `onnxruntime.quantization.quantize_dynamic`, made and proven by onnxq; arguments as for `quantize_static`.

    Raises:
        ConfigError: something is asked for that cannot be had, or an argument or key is wrong.
        ModelError: as `onnxq.quantize`.
    """
    extra = read_extra_options(extra_options)
    model_input = _kept(model_input, model_output)
    remarks = list(extra.remarks)
    if extra.percentile is not None or extra.momentum is not None:
        remarks.append("extra_options about calibration have no effect: dynamic mode calibrates nothing")
    if per_channel is False:
        remarks.append("per_channel=False has no effect: kernels take a scale for each channel at the same speed")
    if weight_type is not None and (name := member(weight_type, QuantType, "weight_type")) != "QInt8":
        if name != "QUInt8":
            raise ConfigError(f"weight_type={name} in dynamic mode", hint="weights are QInt8; leave weight_type= out")
        remarks.append("weight_type=QUInt8: weights are symmetric int8")
    _tell(remarks)
    table = _table(target, None, reduce_range=reduce_range, extra=ExtraOptions())
    from onnxq.api.quantize import quantize  # noqa: PLC0415

    selection = _Selection.of(
        model_input, table, op_types_to_quantize, nodes_to_quantize, nodes_to_exclude, extra.constant_b_only
    )
    result = quantize(
        model_input, mode="dynamic", target=table, output=model_output, force=True, **selection.keywords()
    )
    return _finished(result, external=use_external_data_format)


def quant_pre_process(
    input_model: Model | None = None,
    output_model_path: str | os.PathLike[str] | None = None,
    *args: Any,
    **options: Any,
) -> None:
    """As `onnxruntime.quantization.quant_pre_process`, but there is nothing to do: onnxq folds and infers itself.

    Args:
        input_model: The model.
        output_model_path: Where it is written, as it is.
        args: Taken and not looked at.
        options: Likewise.
    """
    from onnxq.graph.model import load_graph, save_model  # noqa: PLC0415

    if input_model is None or output_model_path is None:
        raise ConfigError("quant_pre_process needs a model and a place", hint="pass input_model and output_model_path")
    graph = load_graph(input_model)
    save_model(graph.to_model(), output_model_path, force=True, base_dir=graph.base_dir)


def _kept(model: Model, output: str | os.PathLike[str]) -> Model:
    """The model; read into memory, and told, where the output replaces its file, which onnxruntime allows."""
    if not isinstance(model, (str, os.PathLike)) or Path(model).resolve() != Path(output).resolve():
        return model
    from onnxq.graph.model import load_graph  # noqa: PLC0415
    from onnxq.graph.saving import self_contained  # noqa: PLC0415

    graph = load_graph(model)
    _tell(["model_output is the file of model_input: the float model is replaced by the quantized one"])
    return self_contained(graph.to_model(), graph.base_dir)


@dataclass(frozen=True, kw_only=True)
class _Selection:
    """Which nodes are quantized, in onnxq's words."""

    include: tuple[str, ...] = ()
    include_ops: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def keywords(self) -> dict[str, Any]:
        return {"include": self.include, "include_ops": self.include_ops, "exclude": self.exclude}

    @classmethod
    def of(  # noqa: PLR0913, PLR0917 - the parts of one decision
        cls,
        model: Model,
        table: TargetSource,
        ops: Sequence[str] | None,
        nodes: Sequence[str] | None,
        exclude: Sequence[str] | None,
        constant_b_only: bool,
    ) -> _Selection:
        """The selection, without names that mean nothing, which onnxruntime passes over; they are told.

        Raises:
            ConfigError: nothing of what is to be quantized is in the model.
        """
        if not ops and not nodes and not exclude and not constant_b_only:
            return cls()
        from onnxq.api.plan import plan  # noqa: PLC0415
        from onnxq.graph.model import load_graph  # noqa: PLC0415

        known = {decision.node: decision.op for decision in plan(model, target=table).nodes}
        dropped = list(exclude or ())
        if constant_b_only:
            graph = load_graph(model)
            products = [n for n in graph.nodes if n.op_type == "MatMul" and not graph.is_constant(n.input[1])]
            dropped += [node.name for node in products]
        wanted_ops = tuple(op for op in ops or () if op in known.values())
        wanted = tuple(name for name in nodes or () if name in known)
        for given, left in ((ops, wanted_ops), (nodes, wanted)):
            if given and not left:
                raise ConfigError(
                    f"none of {', '.join(map(repr, given))} is in the model",
                    hint="`onnxq plan MODEL` lists the nodes and operators that there are",
                )
        _tell([
            f"{name!r} is not in the model, or was folded into a neighbour, and was passed over"
            for name in (*(nodes or ()), *(exclude or ()))
            if name not in known
        ])  # fmt: skip
        if wanted and wanted_ops:  # both have to hold
            wanted, wanted_ops = tuple(name for name in wanted if known[name] in wanted_ops), ()
        return cls(include=wanted, include_ops=wanted_ops, exclude=tuple(n for n in dropped if n in known))


def _table(
    target: TargetSource | None, providers: Sequence[str] | None, *, reduce_range: bool, extra: ExtraOptions
) -> TargetSource:
    from onnxq.numerics.specs import QuantSpec  # noqa: PLC0415
    from onnxq.targets import resolve_target  # noqa: PLC0415

    named: TargetSource = target or ("tensorrt" if (providers or [""])[0] in _TENSORRT else "ort-cpu")
    table, _ = resolve_target(named)
    if reduce_range and table.name.startswith("ort-x64"):
        table, _ = resolve_target("ort-x64-avx2")
    elif reduce_range:
        _tell([f"reduce_range=True has no effect: int8 weights do not overflow on {table.title}"])
    if extra.symmetric and not table.activation.symmetric:
        table = replace(table, activation=QuantSpec(qtype=table.activation.qtype, symmetric=True))
    return table


def _types(activation: Any, weight: Any, per_channel: bool | None) -> list[dict[str, Any]]:
    """Overrides for all nodes."""
    for argument, given in (("activation_type", activation), ("weight_type", weight)):
        if given is not None and (name := member(given, QuantType, argument)) not in ("QInt8", "QUInt8"):
            raise ConfigError(
                f"{argument}={name} is not what this function writes",
                hint="onnxq.quantize has modes for other types: docs/types.md",
            )
    changes: dict[str, Any] = {}
    if weight is not None and member(weight, QuantType, "weight_type") == "QUInt8":
        changes["weight"] = "uint8"
    if per_channel is not None and not per_channel:
        changes["per_channel"] = False
    return [{"nodes": "*", **changes}] if changes else []


def _method(given: Any, extra: ExtraOptions) -> dict[str, Any]:
    name = None if given is None else member(given, CalibrationMethod, "calibrate_method")
    if name == "Distribution":
        raise ConfigError(
            "calibrate_method=Distribution is for fp8", hint="pass MinMax, Entropy or Percentile, or leave it out"
        )
    if extra.percentile is not None and (name != "Percentile" or extra.momentum is not None):
        why = "without calibrate_method=Percentile" if extra.momentum is None else "with a moving average"
        _tell([f"extra_options['CalibPercentile'] has no effect {why}"])
    if extra.momentum is not None:
        return {"method": "moving-average", "momentum": extra.momentum}
    if name == "Percentile":
        return {"method": "percentile", "percentile": 99.999 if extra.percentile is None else extra.percentile}
    return {"method": {None: "auto", "MinMax": "max", "Entropy": "entropy"}[name]}


def _cached(path: Path) -> Any:
    """The statistics of a cache; None where there is none."""
    from onnxq.calibration.statistics.file import load_stats  # noqa: PLC0415
    from onnxq.errors import ArtifactError  # noqa: PLC0415

    if not path.exists():
        return None
    with path.open("rb") as stream:
        if stream.read(1) == b"{":
            raise ArtifactError(
                "this cache was written by onnxruntime, which keeps less than onnxq needs",
                where=str(path),
                hint="delete it, or pass another calibration_cache_path=; it is made anew from the data",
            )
    return load_stats(path)


def _rereadable(reader: Any) -> Any:
    """A reader that can be read twice: one that cannot start anew is read into memory."""
    if hasattr(reader, "get_next") and not hasattr(reader, "rewind"):
        return list(iter(reader.get_next, None))
    return reader


def _no_data() -> ConfigError:
    return ConfigError(
        "there is neither calibration data nor a cache of it",
        hint="pass calibration_data_reader=, or calibration_cache_path= of a file that is there",
    )


def _finished(result: QuantizeResult, *, external: bool) -> QuantizeResult:
    from onnxq.graph.model import load_graph, save_model  # noqa: PLC0415

    if external and result.output is not None:
        graph = load_graph(result.output)
        save_model(graph.to_model(), result.output, force=True, base_dir=graph.base_dir, external=True)
    _tell([f"not passed: {check.name}: {check.detail}" for check in result.report.failed_checks])
    return result


def _tell(texts: Sequence[str]) -> None:
    """Warn at the line of the script that called, however deep in onnxq it is found out."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "onnxq":
        level, frame = level + 1, frame.f_back
    for text in texts:
        warnings.warn(text, CompatWarning, stacklevel=level)
