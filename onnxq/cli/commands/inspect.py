"""`onnxq inspect`: what is in a model file."""

from __future__ import annotations

from pathlib import Path

import click

from onnxq.cli import options
from onnxq.cli.render import print_json, show


@click.command(short_help="Show what is in a model file, scales and zero-points too.")
@click.argument("model", type=options.FILE)
@options.json_option("the facts")
@options.debug_option()
def inspect(model: Path, as_json: bool) -> None:
    """Show what is in MODEL: inputs, outputs, operators, metadata and, if it is quantized, every scale and zero-point.

    \b
    Examples:
      onnxq inspect model.onnx
      onnxq inspect model.int8.onnx --json
    """
    from onnxq.cli.inspection import facts_table, inspect_model  # noqa: PLC0415 - numpy and onnx only now

    facts = inspect_model(model)
    if as_json:
        print_json(facts.to_dict())
    else:
        show(facts_table(facts), table=True)
