"""`onnxq engine`: a TensorRT engine from a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option
from onnxq.cli.documents import engine_document
from onnxq.cli.files import check_places
from onnxq.cli.parameters import Bytes, NamedShape
from onnxq.cli.progress import waiting
from onnxq.cli.render import print_json, say

if TYPE_CHECKING:
    from onnxq.api.build_engine import EngineResult

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How the engine is built. Attributes as the options of the same names."""

    min_shape: Shapes
    opt_shape: Shapes
    max_shape: Shapes
    fp16: bool
    workspace: int | None
    timing_cache: Path | None


def _shape(bound: str, what: str) -> options.Decorator:
    return click.option(
        f"--{bound}-shape", multiple=True, type=NamedShape(), metavar=NamedShape.name,
        help=f"{what} of an input whose size the model leaves open; repeatable.",
    )  # fmt: skip


@click.command(short_help="Build a TensorRT engine.")
@click.argument("model", type=options.FILE)
@click.option("--output", "-o", type=options.FILE, help="Engine file.  [default: MODEL with the ending .engine]")
@options.grouped(
    BuildOptions,
    "building",
    _shape("min", "Smallest shape"),
    _shape("opt", "The shape to tune for"),
    _shape("max", "Largest shape"),
    click.option(
        "--fp16", is_flag=True, help="Half precision for what is not quantized; TensorRT up to version 10 only."
    ),
    click.option("--workspace", type=Bytes(), metavar=Bytes.name, help="Scratch memory for one layer on the GPU."),
    click.option(
        "--timing-cache", type=options.FILE, metavar="FILE", help="Kernel times, read if the file exists, and written."
    ),
)
@options.data_options("Inputs whose shapes the engine has to take, as for `onnxq quantize`.")
@options.force_option()
@options.json_option("the facts")
@options.quiet_option()
@config_option(apart=("output",))
@options.debug_option()
def engine(  # noqa: PLR0913 - one parameter for each group of options
    *,
    model: Path,
    output: Path | None,
    building: BuildOptions,
    data_from: options.DataOptions,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Build a TensorRT engine from MODEL with the TensorRT that is installed.

    TensorRT-RTX (`pip install 'onnxq[tensorrt]'`) builds without a GPU; TensorRT itself builds for the GPU it runs on
    and is preferred where there is one. Sizes that the model leaves open are taken from --min-shape, --opt-shape and
    --max-shape, else from --data. See docs/tensorrt.md.

    \b
    Examples:
      onnxq engine model.int8.onnx -o model.engine
      onnxq engine model.int8.onnx --min-shape x:1x3x224x224 --opt-shape x:8x3x224x224 --max-shape x:32x3x224x224
      onnxq engine model.int8.onnx --data samples.npz --batch-size 8
    """
    path = output or options.beside(model, ".engine")
    inputs = {"the model": model, "the data": data_from.data, "the timing cache": building.timing_cache}
    check_places({"--output": path}, inputs=inputs, force=force)
    from onnxq.api.build_engine import build_engine  # noqa: PLC0415 - numpy and onnx only now

    with waiting("building the engine", quiet=quiet or as_json):
        built = build_engine(
            model,
            path,
            data=data_from.source(),
            min_shapes=dict(building.min_shape),
            opt_shapes=dict(building.opt_shape),
            max_shapes=dict(building.max_shape),
            fp16=building.fp16,
            workspace_bytes=building.workspace,
            timing_cache=building.timing_cache,
            force=force,
            **data_from.keywords(),
        )
    if as_json:
        print_json(engine_document(built))
    elif not quiet:
        click.echo(_text(built))
    if not as_json:
        for note in built.notes:
            say(f"note: {note}", quiet=quiet)


def _text(built: EngineResult) -> str:
    from onnxq.wording.sizes import size_text  # noqa: PLC0415

    lines = [f"{built.path}: {size_text(built.size_bytes)}, built by {built.engine} {built.version} "
             f"in {built.seconds:.1f} s"]  # fmt: skip
    for name, three in built.profile.items():
        low, usual, high = ("x".join(map(str, shape)) for shape in three)
        lines.append(f"input {name}: {usual}" if low == high else f"input {name}: {low} to {high}, tuned for {usual}")
    return "\n".join(lines)
