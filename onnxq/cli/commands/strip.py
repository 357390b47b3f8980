"""`onnxq strip`: from a quantized model back to a float one."""

from __future__ import annotations

from pathlib import Path

import click

from onnxq.cli import options
from onnxq.cli.documents import strip_document
from onnxq.cli.files import check_places
from onnxq.cli.render import print_json, say


@click.command(short_help="Remove all Q/DQ from a model.")
@click.argument("model", metavar="QUANTIZED", type=options.FILE)
@click.option("--output", "-o", type=options.FILE, required=True, help="Float model.")
@options.force_option()
@options.json_option("what was done")
@options.quiet_option()
@options.debug_option()
def strip(model: Path, output: Path, force: bool, as_json: bool, quiet: bool) -> None:
    """Remove all QuantizeLinear and DequantizeLinear from QUANTIZED, whichever tool put them there.

    Where the float weights are still in the file, the result computes what the float model computed, to the last bit.
    Where only codes are left of them, they are dequantized, and the command says so.

    \b
    Example:
      onnxq strip model.int8.onnx -o model.float.onnx
    """
    check_places({"--output": output}, inputs={"the quantized model": model}, force=force)
    from onnxq.api.strip import strip as run  # noqa: PLC0415 - numpy and onnx only now

    result = run(model, output=output, force=force)
    if as_json:
        print_json(strip_document(result, output))
    else:
        say(f"{result}; written to {output}", quiet=quiet)
