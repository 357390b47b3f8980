"""`onnxq.verify`: any Q/DQ model against its float model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.calibration.progress import Callback
from onnxq.graph.model import (
    ModelSource,
    get_metadata,
    is_quantized,
    load_graph,
    size_bytes,
)
from onnxq.graph.subgraphs import nodes_inside
from onnxq.graph.view import Graph
from onnxq.keywords import takes
from onnxq.modes.details import details_of
from onnxq.pipeline.arguments import check_order
from onnxq.pipeline.facts import (
    Clock,
    Counted,
    likeness_to_float,
    origin_check,
    path_of,
    source_facts,
)
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.planning.kept_reasons import KeptReasons, kept_reasons
from onnxq.report.build import RunFacts, build_report
from onnxq.report.contents import DataFacts
from onnxq.report.gates import GateKeywords, Gates
from onnxq.report.quantized_model import explain_model, tensor_rows
from onnxq.report.report import Report
from onnxq.targets import ORT_CPU, TARGETS, TargetSource, resolve_target
from onnxq.targets.schema import Target
from onnxq.verification.verify import verify_model

if TYPE_CHECKING:
    from typing_extensions import Unpack


class VerifyKeywords(GateKeywords, ReadingKeywords, total=False):
    """What is demanded, and how data is read."""


_NOT_QUANTIZED = (
    "nothing in the quantized model is quantized: it is a float model. Was the model that onnxq quantize wrote meant?"
)


@takes(VerifyKeywords)
def verify(  # noqa: PLR0913 - one keyword for each choice of the user
    float_model: ModelSource,
    quantized_model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource | None = None,
    min_sqnr: float | None = None,
    details: bool = False,
    progress: Callback | None = None,
    **options: Unpack[VerifyKeywords],
) -> Report:
    """Ask the target's engine what it runs in int8, and compare outputs with the float model.

    Args:
        float_model: The float model.
        quantized_model: Any Q/DQ model of it, not only one that onnxq made.
        data: Inputs to compare on, as for `quantize`; None takes synthetic inputs.
        target: Name of the target; None takes the one that the metadata of `quantized_model` name, else ort-cpu.
        min_sqnr: A gate: SQNR in dB that every float output must have; else a check of the report fails.
        details: As for `quantize`.
        progress: Called now and then, with a StageProgress.
        options: As for `quantize`: min_int8, require_engine, batch_size, limit, layout, images.

    Raises:
        ModelError: a model cannot be read or run.
        DataError: the data does not fit, or the models have different outputs.
        ConfigError: there is no such target, its engine never answers what a gate asks, or the models changed places.
        GateError: a gate needs an engine that is not installed here.
    """
    clock = Clock()
    gates, reading = Gates.of(options, min_sqnr=min_sqnr), Reading.of(options)
    source, quantized = load_graph(float_model), load_graph(quantized_model)
    check_order(source, [quantized])
    table, doubts, made_for = _asked(target, quantized)
    gates.check_possible(table)
    batches = reading.open(source, data)
    feeds = Counted(batches, progress)
    # A message has no folder of its own; what `quantize` returns refers to files beside the float model.
    candidate = quantized.to_model() if quantized.base_dir is None else quantized
    clock.lap("read")
    verification = verify_model(source, candidate, feeds, table.name, engine=table.engine, guard=table.guard)
    clock.passed(verification.seconds)
    compared = DataFacts(
        samples=0,
        held_out_samples=feeds.samples,
        synthetic=False,
        synthetic_comparison=data is None,
        **source_facts(data, images=reading.images, layout=reading.layout),
    )
    facts = RunFacts(
        size_before_bytes=size_bytes(float_model, source),
        size_after_bytes=size_bytes(quantized_model, quantized),
        data=compared,
        model_name=Path(path_of(quantized_model) or "").name,
        quantized_path=path_of(quantized_model),
        float_path=path_of(float_model),
        warnings=(*doubts, *batches.warnings, *([] if is_quantized(quantized) else [_NOT_QUANTIZED])),
        notes=(*made_for, *batches.notes),
        seconds=clock.seconds,
    )
    inner = details_of(source, quantized, verification, table, progress=progress) if details else None
    clock.lap("look inside" if details else "report")
    report = build_report(
        verification,
        facts,
        extra_checks=(
            *origin_check(source, quantized, verification.outputs),
            *likeness_to_float(source, compared, verification),
        ),
        rows=tensor_rows(explain_model(quantized.copy(), table)),
        reasons=_reasons(quantized, table),
        details=inner,
    )
    return gates.applied(report, {*(node.name for node in source.nodes), *nodes_inside(source)})


def _reasons(quantized: Graph, table: Target) -> KeptReasons:
    """Why the model's nodes were left in float, in the words of the target that it was made for."""
    metadata = get_metadata(quantized.frame)
    named, found = metadata.get("onnxq.target", ""), kept_reasons(metadata)
    return found if _is_of(named, table) else found.when_made_for(named)


def _is_of(named: str, table: Target) -> bool:
    """Whether a model that names a target, or none, may have been made for the engine of `table`."""
    own = TARGETS.get(named)
    return named in {"", table.name} or (own is not None and own.engine is table.engine)


def _asked(target: TargetSource | None, quantized: Graph) -> tuple[Target, tuple[str, ...], tuple[str, ...]]:
    """The target's table, and a warning and a note where the model says that it was made for another one."""
    named = get_metadata(quantized.frame).get("onnxq.target", "")
    own = TARGETS.get(named)
    if target is not None:
        table, _ = resolve_target(target)
        if _is_of(named, table):
            return table, (), ()
        leave = (
            f"leave out target= (--target) to ask {named}" if own else f"target= (--target) takes the file of {named}"
        )
        return table, (), (f"the model was made for {named}, and {table.name} is asked; {leave}",)
    table, _ = resolve_target(named if own is not None else ORT_CPU)
    if named and own is None:
        doubt = (
            f"the model was made for {named!r}, which is no built-in target, so {table.name} is asked in its place; "
            "pass the file of its table: target='FILE.toml' (--target FILE.toml)"
        )
        return table, (doubt,), ()
    if not named or named.startswith("ort-"):
        return table, (), ()
    return table, (), (f"the model was made for {named}, so {named} is asked; target= (--target) names another",)
