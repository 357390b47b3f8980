"""--custom-ops: libraries that are loaded before a command runs."""

from __future__ import annotations

from pathlib import Path

import click

from onnxq.cli.options import FILE, Decorator


def custom_ops_option() -> Decorator:
    """See the module's docstring."""

    def load(ctx: click.Context, param: click.Parameter, value: tuple[Path, ...]) -> None:
        for library in value:
            from onnxq.inference.custom_ops import register_custom_ops  # noqa: PLC0415 - onnxruntime only now

            register_custom_ops(library)

    return click.option(
        "--custom-ops",
        type=FILE,
        multiple=True,
        expose_value=False,
        callback=load,
        metavar="LIB",
        help="Shared library with operators of your own for onnxruntime, which is loaded and run; may be repeated.",
    )
