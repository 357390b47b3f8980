"""`onnxq quantize`: the main job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option, from_file
from onnxq.cli.files import check_places
from onnxq.cli.forms import FORM_OPTIONS, FormOptions
from onnxq.cli.gates import GATE_OPTIONS, GateOptions
from onnxq.cli.libraries import custom_ops_option
from onnxq.cli.parameters import FLOAT_TYPES, METHOD_NAMES, Name, Recover
from onnxq.cli.progress import calibration_progress, tuning_progress
from onnxq.cli.render import (
    check_report_suffix,
    errors_in_junit,
    leave_on_failed_checks,
    say,
    show_report,
    write_junit,
    write_report,
)
from onnxq.cli.searching import SEARCH_OPTIONS, SearchOptions
from onnxq.errors import ConfigError

if TYPE_CHECKING:
    from onnxq.modes.choices import StaticKeywords
    from onnxq.report.report import Report
    from onnxq.search.budget import SearchKeywords

_TUNE_SECONDS = 60.0
_SYNTHETIC = "data: NONE; --data SRC was not given, and there is no {beside} beside the model: inputs are made up"


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How ranges are found. Attributes as the options of the same names."""

    method: str
    percentile: float | None
    momentum: float | None
    recover: str | tuple[str, ...]
    stats: Path | None
    save_stats: Path | None
    calibration_cache: Path | None
    float_type: str | None
    tune: str | None
    tune_seconds: float

    def collects_on(self, data: Path | None) -> bool:
        """Whether recovery collects on data beside --stats."""
        from onnxq.recovery.registry import Recovery  # noqa: PLC0415 - numpy and onnx only now

        return data is not None and Recovery.of(self.recover).levels

    def keywords(self) -> StaticKeywords:
        """How the Python API is to find ranges and win back accuracy and speed."""
        from onnxq import load_stats  # noqa: PLC0415 - numpy and onnx only now

        return {
            "method": self.method,
            "percentile": self.percentile,
            "momentum": self.momentum,
            "recover": self.recover,
            "stats": None if self.stats is None else load_stats(self.stats),
            "tensorrt_cache": self.calibration_cache,
            "float_type": self.float_type,
            "tune": self.tune,
            "tune_seconds": self.tune_seconds,
        }


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is written and printed. Attributes as the options of the same names."""

    output: Path | None
    report: Path | None
    junit: Path | None
    force: bool
    as_json: bool
    quiet: bool


_RANGE_OPTIONS = (
    click.option(
        "--method", "-m", type=Name(METHOD_NAMES), default="auto", show_default=True, help="How ranges are chosen."
    ),
    click.option(
        "--percentile",
        type=click.FloatRange(min=0, max=100, min_open=True),
        help="For --method percentile, percent of the values inside the range.  [default: 99.99]",
        metavar="P",
    ),
    click.option(
        "--momentum",
        type=click.FloatRange(min=0, max=1, min_open=True),
        help="For --method moving-average, weight of the newest batch.  [default: 0.01]",
        metavar="C",
    ),
    click.option(
        "--recover",
        type=Recover(),
        default="fast",
        show_default=True,
        metavar="HOW",
        help="What wins back accuracy: none, fast, best, or steps separated by commas (clip, rounding, bias, ...).",
    ),
    click.option("--stats", type=options.FILE, help="Statistics of an earlier run: no inference for calibration."),
    click.option("--save-stats", type=options.FILE, help="Write the statistics, for later runs with --stats."),
    click.option(
        "--calibration-cache",
        type=options.FILE,
        help="TensorRT's calibration cache, for --target tensorrt: its scales, and no calibration.",
    ),
    click.option(
        "--float-type",
        type=Name(FLOAT_TYPES),
        help="What is not quantized computes in float32, as in the model, or for --target tensorrt in float16.  "
        "[default: float32]",
    ),
    click.option(
        "--tune",
        type=Name(("latency",)),
        help="Race placements on this machine and keep the fastest; ort targets and openvino.",
    ),
    click.option(
        "--tune-seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=_TUNE_SECONDS,
        show_default=True,
        metavar="S",
        help="Time limit of --tune; Ctrl-C ends it early and keeps the best so far.",
    ),
)

_RESULT_OPTIONS = (
    click.option(
        "--output",
        "-o",
        type=options.FILE,
        help="Quantized model.  [default: MODEL.int8.onnx, with another --weights or --activations its name in place "
        "of int8, in mode weight-only MODEL.int4.onnx]",
    ),
    click.option("--report", type=options.FILE, help="Write the report to a .html or .json file."),
    options.junit_option(),
    options.force_option(),
    options.json_option("the report"),
    options.quiet_option(),
)


@click.command(short_help="Quantize a model, and prove the result.")
@click.argument("model", type=options.FILE)
@options.grouped(FormOptions, "form", *FORM_OPTIONS)
@options.plan_options()
@options.data_options("Calibration data: the kinds of SRC are listed above.  [default: MODEL.calib.npz if it exists]")
@options.grouped(Ranges, "ranges", *_RANGE_OPTIONS)
@options.collect_options()
@options.grouped(Results, "results", *_RESULT_OPTIONS)
@options.grouped(SearchOptions, "searching", *SEARCH_OPTIONS)
@options.grouped(GateOptions, "gates", *GATE_OPTIONS)
@config_option()
@custom_ops_option()
@options.debug_option()
def quantize(  # noqa: PLR0913 - one parameter for each group of options
    *,
    model: Path,
    form: FormOptions,
    placement: options.PlanOptions,
    data_from: options.DataOptions,
    ranges: Ranges,
    collecting: options.CollectOptions,
    results: Results,
    searching: SearchOptions,
    gates: GateOptions,
) -> None:
    """Quantize a float MODEL to int8 for one target, and prove the result on the target's engine.

    SRC is a .npz or .npy file (the first axis counts samples), a folder of them, a folder of images (with --images, or
    --mean and --std), a folder with ONNX test_data_set_* folders, or a Python file that defines load_data().

    \b
    Examples:
      onnxq quantize model.onnx
      onnxq quantize model.onnx --data samples.npz --target tensorrt -o engine-ready.onnx
      onnxq quantize resnet.onnx --data photos/ --images imagenet --limit 500
      onnxq quantize model.onnx --method percentile --percentile 99.9 --exclude '/head/*'
      onnxq quantize model.onnx --data samples.npz --eval-data test.npz --labels labels --max-drop 0.5%
      onnxq quantize model.onnx --mode dynamic
      onnxq quantize model.onnx --config int8.toml --report int8.html --force
    """
    output = results.output or options.beside(model, form.suffix(placement.activations))
    ranges, collecting = _in_use(ranges, collecting, data_from.beside(model))
    places = {
        "--output": output,
        "--report": results.report,
        "--junit": results.junit,
        "--save-stats": ranges.save_stats,
    }
    chosen = data_from.beside(model)
    sources = {
        "the input model": model,
        "the calibration data": chosen.data,
        "the file of --stats": ranges.stats,
        "the file of --calibration-cache": ranges.calibration_cache,
        "the samples of --eval-data": searching.eval_data,
        "the file of --ranking": searching.ranking,
    }
    check_places(places, inputs=sources, force=results.force)
    check_report_suffix(results.report)
    _check_statistics_are_kept(ranges, form)
    with errors_in_junit(results.junit, f"onnxq quantize {model.name}"):
        if form.needs_ranges:
            _say_where_data_is_from(data_from, chosen, ranges, model, quiet=results.quiet)
        report = _run(
            model=model,
            form=form,
            placement=placement,
            data_from=chosen,
            ranges=ranges,
            collecting=collecting,
            output=output,
            results=results,
            search=searching.keywords(gates.min_sqnr),
            gates=gates,
        )
    write_report(report, results.report, quiet=results.quiet or results.as_json)
    write_junit(report, results.junit)
    show_report(report, as_json=results.as_json, quiet=results.quiet)
    leave_on_failed_checks(
        report,
        remark=_way_on(output, results, form, gates, searched=bool(searching.keywords(gates.min_sqnr)["search"])),
        shown=not results.as_json and not results.quiet,
    )


def _way_on(output: Path, results: Results, form: FormOptions, gates: GateOptions, *, searched: bool) -> str:
    """What a user can do about a check that failed, `searched` already or not."""
    ways = [f"the model was written to {output} all the same"]
    if results.report is None:
        ways.append("see it with --report FILE.html")
    if gates.min_sqnr is not None and form.needs_ranges:
        ways.append(
            "--recover best may win accuracy back"
            if searched
            else "--recover best may win accuracy back, and --search leaves layers in float until --min-sqnr is met"
        )
    elif gates.min_sqnr is not None and form.mode == "weight-only" and not searched:
        ways.append("--search gives weights more bits until --min-sqnr is met")
    return "; ".join(ways)


def _run(  # noqa: PLR0913 - one parameter for each group of options
    *,
    model: Path,
    form: FormOptions,
    placement: options.PlanOptions,
    data_from: options.DataOptions,
    ranges: Ranges,
    collecting: options.CollectOptions,
    output: Path,
    results: Results,
    search: SearchKeywords,
    gates: GateOptions,
) -> Report:
    from onnxq.api.quantize import quantize as run  # noqa: PLC0415 - numpy and onnx only now

    quiet = results.quiet or results.as_json
    with calibration_progress(quiet=quiet, afterwards="quantizing and verifying") as progress:
        result = run(
            model,
            data_from.source(),
            target=placement.target,
            mode=form.mode,
            output=output,
            force=results.force,
            details=results.report is not None,
            progress=progress,
            tune_progress=tuning_progress(progress),
            activations=placement.activations,
            weights=form.weights,
            **ranges.keywords(),
            **form.keywords(),
            **placement.keywords(),
            **data_from.keywords(),
            **collecting.keywords(),
            **search,
            **gates.keywords(),
        )
    if ranges.save_stats is not None:
        result.stats.save(ranges.save_stats)
    return result.report


def _in_use(
    ranges: Ranges, collecting: options.CollectOptions, chosen: options.DataOptions
) -> tuple[Ranges, options.CollectOptions]:
    """Without what a file of --config says for other runs than this one."""
    if ranges.calibration_cache is not None:
        idle = from_file("method", "percentile", "momentum")
        defaults: dict[str, Any] = {"method": "auto", "percentile": None, "momentum": None}
        ranges = replace(ranges, **{name: defaults[name] for name in idle})
    if ranges.tune is None and from_file("tune_seconds"):
        ranges = replace(ranges, tune_seconds=_TUNE_SECONDS)
    if ranges.calibration_cache is not None or (ranges.stats is not None and not ranges.collects_on(chosen.data)):
        idle = from_file("nonfinite", "full_histogram", "memory_limit")
        defaults = {"nonfinite": "error", "full_histogram": False, "memory_limit": None}
        collecting = replace(collecting, **{name: defaults[name] for name in idle})
    return ranges, collecting


def _check_statistics_are_kept(ranges: Ranges, form: FormOptions) -> None:
    """Refuse --save-stats where nothing but ranges is known, or not even these."""
    if not form.needs_ranges:
        reason = f"--mode {form.mode}"
    else:
        reason = "--calibration-cache" if ranges.calibration_cache is not None else "--method moving-average"
    without = not form.needs_ranges or ranges.calibration_cache is not None or ranges.method == "moving-average"
    if ranges.save_stats is not None and without:
        raise ConfigError(
            f"{reason} makes no statistics that could be saved",
            where=f"--save-stats {str(ranges.save_stats)!r}",
            hint=f"leave out --save-stats or {reason}",
        )


def _say_where_data_is_from(
    given: options.DataOptions, chosen: options.DataOptions, ranges: Ranges, model: Path, *, quiet: bool
) -> None:
    """Say what the user did not: where data were found, or that there are none.

    Raises:
        ModelError: the model cannot be read, which matters more.
    """
    if given.data is None and chosen.data is not None:
        say(f"data: {chosen.data}, found beside the model", quiet=quiet)
    elif chosen.data is None and ranges.stats is None and ranges.calibration_cache is None:
        from onnxq.pipeline.training import brings_ranges  # noqa: PLC0415 - imports onnx

        if brings_ranges(model):
            return
        say(_SYNTHETIC.format(beside=options.beside(model, options.DATA_SUFFIX)), quiet=quiet)
