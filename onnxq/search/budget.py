"""What a mixed-precision model has to meet, and how long to look for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from onnxq.errors import ConfigError
from onnxq.evaluation.metrics import Function
from onnxq.keywords import Keyword, complete
from onnxq.search.ranking import Sensitivity
from onnxq.search.ranking_file import RankingSource, load_ranking
from onnxq.wording.flags import flag_of
from onnxq.wording.percent import points_from

SECONDS = 600.0
"""Time for a search unless the user says otherwise."""

_ASKS = "max_drop=, min_sqnr= or min_cosine= (--max-drop, --min-sqnr with --search, --min-cosine)"


class DemandKeywords(TypedDict, total=False):
    """What accuracy is demanded."""

    max_drop: Annotated[
        float | str | None,
        Keyword(
            None,
            "Leave layers in float, as little arithmetic as possible, so that `metric` falls by so many percentage "
            'points at most (0.5 or "0.5%"). In mode "weight-only", weights of 4 bits get 8 before they stay float. '
            "See docs/accuracy.md for this and the following.",
        ),
    ]
    min_sqnr: Annotated[float | None, Keyword(None, "Likewise, so that every float output has this SQNR in dB.")]
    min_cosine: Annotated[
        float | None,
        Keyword(None, "Likewise, so that every float output has this cosine similarity with the float model's."),
    ]


class BesideKeywords(TypedDict, total=False):
    """What has a meaning beside a demand alone."""

    metric: Annotated[str | Function | None, Keyword(None, "For `max_drop`, as for `evaluate`; top1 unless given.")]
    labels: Annotated[Any, Keyword(None, "For `max_drop`, as for `evaluate`.")]
    eval_data: Annotated[Any, Keyword(None, "Samples to judge models on; the calibration data unless given.")]
    output_name: Annotated[str | None, Keyword(None, "For `max_drop`, the output to look at, where there are several.")]
    search_seconds: Annotated[
        float | None,
        Keyword(
            None, f"Time limit of the search, {SECONDS:g} unless given. The best model found so far is the result."
        ),
    ]
    ranking: Annotated[
        RankingSource | None,
        Keyword(
            None,
            "A ranking of the layers to search in the order of, in place of measuring it: what `sensitivity` gave, or "
            "the JSON file that it wrote.",
        ),
    ]


class SearchKeywords(DemandKeywords, BesideKeywords, total=False):
    """What accuracy is demanded, and how a model that has it is looked for."""

    search: Annotated[
        bool,
        Keyword(
            True,
            "Whether layers may be changed until `max_drop`, `min_sqnr` and `min_cosine` are met. With False they are "
            "only checked: `min_sqnr` on the samples of the report (as --min-sqnr without --search), the others on "
            "those of the search.",
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """At least one demand, and what it is judged on.

    Attributes:
        max_drop: Most that the metric may fall below the float model's, in percentage points (a metric of 0..1 is taken
            as a share).
        min_sqnr: SQNR that every float output must have, in dB.
        min_cosine: Cosine similarity that every float output must have.
        metric: The metric of `max_drop`, as for `onnxq.evaluate`; None is top1.
        labels: Labels of the samples, as for `onnxq.evaluate`.
        data: Samples to judge on; None takes the calibration data.
        output: Output that the metric looks at, where there are several.
        seconds: Time limit of the search.
        ranking: A ranking of layers made before; None measures them.
        search: Whether other models may be made until the demands are met; else the first is judged, and no other.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    min_cosine: float | None = None
    metric: str | Function | None = None
    labels: Any = None
    data: Any = None
    output: str | None = None
    seconds: float = SECONDS
    ranking: Sensitivity | None = None
    search: bool = True


def budget_from(options: SearchKeywords) -> Budget | None:
    """The budget that the keywords of `quantize` ask for; None where they ask for none.

    Raises:
        ConfigError: a value is impossible, or there is nothing to search for.
        ArtifactError: the ranking cannot be read.
    """
    given = complete(SearchKeywords, options)
    search, seconds = given["search"], given["search_seconds"]
    if not search and (given["ranking"] is not None or seconds is not None):
        name = "ranking" if given["ranking"] is not None else "search_seconds"
        raise ConfigError(
            f"{name}= ({flag_of(name)}) serves a search, and search=False (--no-search) says that there is none",
            hint="leave out one of both",
        )
    max_drop, min_cosine, metric = given["max_drop"], given["min_cosine"], given["metric"]
    # Without a search, the SQNR is a gate on the samples of the report.
    min_sqnr = given["min_sqnr"] if search else None
    if max_drop is None and min_sqnr is None and min_cosine is None:
        idle = [name for name, value in complete(BesideKeywords, options).items() if value is not None]
        if idle:
            raise ConfigError(
                f"{idle[0]}= ({flag_of(idle[0])}) serves a search, and there is nothing to search for",
                hint=f"pass {_ASKS}",
            )
        return None
    drop = None if max_drop is None else points_from(max_drop)
    if min_cosine is not None and not 0.0 < min_cosine <= 1.0:
        raise ConfigError(f"min_cosine is {min_cosine:g}", hint="min_cosine= (--min-cosine) is above 0 and at most 1.")
    if min_sqnr is not None and not math.isfinite(min_sqnr):
        raise ConfigError(f"min_sqnr is {min_sqnr:g}", hint="min_sqnr= (--min-sqnr) is a number of dB.")
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"search_seconds is {seconds:g}", hint="search_seconds= (--search-seconds) is above 0.")
    if metric in ("sqnr", "cosine"):
        raise ConfigError(
            f"{metric} compares with the float model itself, which cannot fall",
            hint="demand it with min_sqnr= or min_cosine= (--min-sqnr with --search, --min-cosine)",
        )
    if drop is None and (metric is not None or given["labels"] is not None):
        raise ConfigError(
            "a metric and labels are judged by how far they fall", hint="pass max_drop=0.5 (--max-drop 0.5%)"
        )
    return Budget(
        max_drop=drop,
        min_sqnr=min_sqnr,
        min_cosine=min_cosine,
        metric=metric,
        labels=given["labels"],
        data=given["eval_data"],
        output=given["output_name"],
        seconds=SECONDS if seconds is None else seconds,
        ranking=None if given["ranking"] is None else load_ranking(given["ranking"]),
        search=search,
    )
