"""`onnxq evaluate`: a float model and its quantized forms on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option
from onnxq.cli.files import check_places, write_text
from onnxq.cli.libraries import custom_ops_option
from onnxq.cli.parameters import METRICS, TARGETS, MetricName, Points, Score, TargetName
from onnxq.cli.progress import calibration_progress
from onnxq.cli.render import check_report_suffix, errors_in_junit, leave_on_failed_checks, warn
from onnxq.wording.flags import flags_first

if TYPE_CHECKING:
    from onnxq.evaluation.evaluation import Evaluation


@click.command(short_help="Score float and quantized models side by side.")
@click.argument("model", type=options.FILE)
@click.argument("quantized", type=options.FILE, nargs=-1)
@options.data_options("Samples to judge on, as for `onnxq quantize`: others than those that were calibrated on.")
@click.option(
    "--labels",
    metavar="LABELS",
    help="A .npy, .npz, .txt or .csv file, an array of the .npz in --data, or `folders`.  [default: looked for beside "
    "the samples]",
)
@click.option(
    "--metric",
    type=MetricName(),
    metavar="METRIC",
    help=f"{', '.join(METRICS)}, or FILE.py:FUNCTION.  [default: top1 where there are labels, else sqnr]",
)
@click.option(
    "--postprocess",
    metavar="FILE.py:FUNCTION",
    help="In place of a metric: a function of {output name: array} that gives one result for each sample, such as a "
    "text; scored is the share that equals the labels, or the float model's results.",
)
@click.option("--output", "output_name", metavar="NAME", help="The model's output to judge, where it has several.")
@click.option(
    "--target",
    "-t",
    type=TargetName(TARGETS),
    metavar="NAME",
    help="Engine the quantized models are for; models for TensorRT and OpenVINO run with Q and DQ as written.  "
    "[default: what each model says of itself]",
)
@click.option(
    "--threads", type=options.COUNT, metavar="N", help="Threads for inference; by default onnxruntime decides."
)
@click.option(
    "--ep",
    multiple=True,
    metavar="PROVIDER",
    help="onnxruntime's provider, such as cuda; repeatable, in fall-back order.",
)
@click.option(
    "--max-drop",
    type=Points(),
    metavar="POINTS",
    help="Fail where a quantized model's score lies more percentage points below the float model's, such as 0.5%.",
)
@click.option(
    "--min-score",
    type=Score(),
    metavar="SCORE",
    help="Fail where a quantized model's score is less: percent for shares, such as 95%, else in the metric's unit.",
)
@click.option("--report", type=options.FILE, help="Write the evaluation to a .html or .json file.")
@options.junit_option()
@options.force_option()
@options.json_option("the evaluation")
@config_option(apart=("data", "limit", "shuffle", "output", "report", "junit"))
@custom_ops_option()
@options.debug_option()
def evaluate(  # noqa: PLR0913 - one parameter for each option
    *,
    model: Path,
    quantized: tuple[Path, ...],
    data_from: options.DataOptions,
    labels: str | None,
    metric: str | None,
    postprocess: str | None,
    output_name: str | None,
    target: str | None,
    threads: int | None,
    ep: tuple[str, ...],
    max_drop: float | None,
    min_score: str | None,
    report: Path | None,
    junit: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Score MODEL and its QUANTIZED forms on the same samples, with 95 % confidence intervals.

    Differences are tested sample by sample: top1 and top5 by McNemar's exact test, other metrics by a paired bootstrap
    with a fixed seed. Where the samples do not show a difference, that is what is said.

    A function of your own, FILE.py:FUNCTION, gets {output name: array} and the labels of a batch, and returns
    one number for each sample; larger is better. The file is run: name only files that you trust.

    The exit code is 4 if --max-drop or --min-score is not met.

    \b
    Examples:
      onnxq evaluate model.onnx model.int8.onnx --data test.npz --labels labels
      onnxq evaluate model.onnx a.onnx b.onnx --data photos/ --images imagenet --labels folders --metric top5
      onnxq evaluate model.onnx model.int8.onnx --data test.npz --metric metrics.py:word_accuracy
      onnxq evaluate model.onnx model.int8.onnx --data test.npz --labels labels --max-drop 0.5% --junit accuracy.xml
    """
    inputs = {"the float model": model, "the data": data_from.data}
    check_places({"--report": report, "--junit": junit}, inputs=inputs, force=force)
    check_report_suffix(report)
    from onnxq.evaluation.evaluate import evaluate as run  # noqa: PLC0415 - numpy and onnx only now

    with (
        errors_in_junit(junit, f"onnxq evaluate {model.name}"),
        calibration_progress(quiet=as_json, afterwards="evaluating") as progress,
    ):
        found = run(
            model,
            quantized,
            data_from.source(),
            **data_from.keywords(),
            labels=labels,
            metric=metric,
            postprocess=postprocess,
            output=output_name,
            max_drop=max_drop,
            min_score=min_score,
            target=target,
            threads=threads,
            providers=ep or None,
            progress=progress,
        )
    if report is not None:
        write_text(report, found.to_json() if report.suffix.lower() == ".json" else found.to_html(), option="--report")
    if junit is not None:
        write_text(junit, found.to_junit(), option="--junit")
    _show(found, as_json=as_json)
    leave_on_failed_checks(found, shown=not as_json)


def _show(found: Evaluation, *, as_json: bool) -> None:
    if as_json:
        click.echo(found.to_json())
        for text in found.warnings:
            warn(text)
    else:
        click.echo(flags_first(found.to_text()), nl=False)
