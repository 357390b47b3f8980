"""The command `onnxq`.

Nothing here or in the command modules imports numpy, onnx or onnxruntime at the top: `onnxq --help` and completion must
answer at once.
"""

from __future__ import annotations

import sys

import click

from onnxq.cli.commands.cache import cache
from onnxq.cli.commands.calibrate import calibrate
from onnxq.cli.commands.data import data
from onnxq.cli.commands.engine import engine
from onnxq.cli.commands.evaluate import evaluate
from onnxq.cli.commands.inspect import inspect
from onnxq.cli.commands.merge import merge
from onnxq.cli.commands.plan import plan
from onnxq.cli.commands.quantize import quantize
from onnxq.cli.commands.report import report
from onnxq.cli.commands.sensitivity import sensitivity
from onnxq.cli.commands.strip import strip
from onnxq.cli.commands.targets import targets
from onnxq.cli.commands.verify import verify
from onnxq.cli.group import EXIT_USAGE, CommandLine
from onnxq.cli.signals import end_at_once_from_now_on
from onnxq.cli.streams import Messages, Output, whole
from onnxq.version import VERSION

PROGRAM = "onnxq"


@click.group(
    cls=CommandLine,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Quantize ONNX models to int8 that the target engine provably runs.

    \b
    Start here:
      onnxq quantize model.onnx --data samples.npz --target tensorrt
      onnxq plan model.onnx --target tensorrt    # what would be int8, and why not

    \b
    Exit codes: 0 done; 1 a bug in onnxq;
    2 wrong options or configuration, or a place that cannot be written;
    3 a model, data, labels, statistics or cache that is missing or bad;
    4 a check or gate was not met; 130 interrupted; 143 terminated.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


for command in (
    quantize, plan, data, calibrate, merge, cache, verify, evaluate, sensitivity, report, engine, inspect, strip,
    targets,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Entry point of the `onnxq` script."""
    sys.stdout, sys.stderr = whole(sys.stdout, Output), whole(sys.stderr, Messages)
    try:
        cli(prog_name=PROGRAM)
    finally:
        end_at_once_from_now_on()
