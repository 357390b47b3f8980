"""`onnxq plan`: what would be quantized, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option
from onnxq.cli.documents import plan_document
from onnxq.cli.render import print_json, show

if TYPE_CHECKING:
    from onnxq.planning.plan import NodeDecision, QuantPlan


@click.command(short_help="Show what would be int8, and why not.")
@click.argument("model", type=options.FILE)
@options.plan_options()
@click.option(
    "--filter", "words", multiple=True, metavar="WORD", help="Show only nodes whose row holds WORD; repeatable."
)
@options.json_option("the plan")
@config_option()
@options.debug_option()
def plan(model: Path, placement: options.PlanOptions, words: tuple[str, ...], as_json: bool) -> None:
    """Show how each node of MODEL would run on the target, and why. Needs no data.

    A node runs in int8, is fused (it disappears into an int8 neighbour) or stays float. Names are those of the model
    after onnxq has folded what can be folded. The rules are explained in docs/targets.md.

    \b
    Examples:
      onnxq plan model.onnx --target tensorrt
      onnxq plan model.onnx --target ort-cpu --filter float --filter MatMul
    """
    from onnxq.explaining import plan as run  # noqa: PLC0415 - numpy and onnx only now
    from onnxq.report.text import plan_table  # noqa: PLC0415

    made = run(model, **placement.keywords())
    rows = _matching(made, words)
    if as_json:
        print_json(plan_document(made, rows))
    else:
        show(plan_table(made, rows), table=True)


def _matching(made: QuantPlan, words: tuple[str, ...]) -> list[NodeDecision]:
    def text(d: NodeDecision) -> str:
        return f"{d.node} {d.op} {d.action.value} {d.rule} {d.reason}".lower()

    return [d for d in made.nodes if all(word.lower() in text(d) for word in words)]
