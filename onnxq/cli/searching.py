"""Options of `onnxq quantize` that ask for mixed precision: layers go to float until demands are met."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli.options import FILE
from onnxq.cli.parameters import METRICS, MetricName, Points
from onnxq.errors import ConfigError

if TYPE_CHECKING:
    from onnxq.search.budget import SearchKeywords


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a quantized model has to meet. Attributes as the options of the same names."""

    search: bool | None
    max_drop: float | None
    min_cosine: float | None
    metric: str | None
    labels: str | None
    output_name: str | None
    eval_data: Path | None
    search_seconds: float | None
    ranking: Path | None

    def keywords(self, min_sqnr: float | None) -> SearchKeywords:
        """What the Python API is to search for, with --min-sqnr, which is a goal like the others in a search.

        Raises:
            ConfigError: --search has nothing to search for.
        """
        goals = self.max_drop is not None or self.min_cosine is not None
        if self.search and self.max_drop is None and self.min_cosine is None and min_sqnr is None:
            raise ConfigError(
                "--search has no goal", hint="pass --max-drop 0.5%, --min-cosine 0.999 or --min-sqnr 30 with it"
            )
        # With nothing else to search for, --min-sqnr is a gate.
        gate_alone = min_sqnr is not None and not goals and self.search is None
        return {
            "min_sqnr": min_sqnr,
            "search": self.search is not False and not gate_alone,
            "max_drop": self.max_drop,
            "min_cosine": self.min_cosine,
            "metric": self.metric,
            "labels": self.labels,
            "output_name": self.output_name,
            "eval_data": self.eval_data,
            "search_seconds": self.search_seconds,
            "ranking": self.ranking,
        }


SEARCH_OPTIONS = (
    click.option(
        "--search/--no-search",
        default=None,
        help="Leave layers in float, as little arithmetic as possible, until --min-sqnr is met; in mode weight-only "
        "weights get 8 bits first. --max-drop and --min-cosine search without it. --no-search only checks them.",
    ),
    click.option(
        "--max-drop",
        type=Points(),
        metavar="POINTS",
        help="Leave layers in float until --metric falls by at most so many percentage points, such as 0.5%.",
    ),
    click.option(
        "--min-cosine",
        type=click.FloatRange(min=0, max=1, min_open=True),
        metavar="COSINE",
        help="Leave layers in float until every float output has this cosine similarity with the float model's.",
    ),
    click.option(
        "--metric",
        type=MetricName(METRICS[:2]),
        metavar="METRIC",
        help=f"For --max-drop: {METRICS[0]}, {METRICS[1]}, or FILE.py:FUNCTION.  [default: top1]",
    ),
    click.option(
        "--labels",
        metavar="LABELS",
        help="For --max-drop: labels as for `onnxq evaluate`.  [default: looked for beside the samples]",
    ),
    click.option("--output-name", metavar="NAME", help="For --max-drop: the output to judge, where there are several."),
    click.option(
        "--eval-data", type=FILE, metavar="SRC", help="Samples to judge models on.  [default: the calibration data]"
    ),
    click.option(
        "--search-seconds",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="Time limit of the search; the best model found so far is written, after Ctrl-C too.  [default: 600]",
    ),
    click.option(
        "--ranking",
        type=FILE,
        help="JSON file of `onnxq sensitivity`: the order of the layers, which is then not measured.",
    ),
)
