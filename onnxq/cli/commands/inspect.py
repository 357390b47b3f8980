"""`onnxq inspect`: what is in a model file, or in a file of statistics."""

from __future__ import annotations

from pathlib import Path

import click

from onnxq.cli import options
from onnxq.cli.filters import Filters, filter_options
from onnxq.cli.parameters import TARGETS, TargetName
from onnxq.cli.render import print_json, show
from onnxq.errors import ConfigError


@click.command(short_help="Show what is in a model or statistics file.")
@click.argument("model", metavar="FILE", type=options.FILE)
@filter_options()
@click.option(
    "--target",
    "-t",
    type=TargetName(TARGETS),
    metavar="NAME",
    help="Target whose rules are named.  [default: the one that the file says it was made for]",
)
@options.json_option("the facts")
@options.debug_option()
def inspect(model: Path, filters: Filters, target: str | None, as_json: bool) -> None:
    """Show what is in FILE: a float or quantized model, or statistics of `onnxq calibrate`.

    Of a model: inputs, outputs, operators, metadata and, if it is quantized, how each node would run as Q/DQ stand, and
    every scale and zero-point. `onnxq verify` asks the engine. Of statistics: the range of each tensor.

    \b
    Examples:
      onnxq inspect model.onnx
      onnxq inspect model.int8.onnx --decision float
      onnxq inspect model.int8.onnx --tensors --node '/head/*'
      onnxq inspect model.stats
    """
    from onnxq.cli.statistics_view import is_stats_file, stats_facts, stats_rows, stats_table  # noqa: PLC0415

    if is_stats_file(model):
        from onnxq import load_stats  # noqa: PLC0415

        if filters.node or filters.op or filters.decision:
            raise ConfigError(
                "statistics know tensors alone, no nodes",
                where=str(model),
                hint="pick tensors with --tensor or --filter",
            )
        stats = load_stats(model)
        found = stats_rows(stats, filters.tensor, filters.words)
        if as_json:
            print_json(stats_facts(stats, found, model))
        else:
            show(stats_table(stats, found, model), table=True)
        return
    from onnxq.cli.inspection import facts_table, inspect_model  # noqa: PLC0415 - numpy and onnx only now

    seen = inspect_model(model, filters.rows(), target)
    if filters.any and not seen.whole.nodes:
        raise ConfigError(
            "the model is not quantized, so there are no rows to pick",
            where=str(model),
            hint="`onnxq plan MODEL` shows what would become of its nodes",
        )
    if as_json:
        print_json(seen.facts.to_dict())
    else:
        nodes = not filters.shows_tensors
        show(facts_table(seen, tensors=filters.shows_tensors or not filters.any, nodes=nodes), table=True)
