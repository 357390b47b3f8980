"""What a search for mixed precision found."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.search.ranking import LayerEffect
from onnxq.verification.check import Check
from onnxq.wording.brief import brief
from onnxq.wording.plural import counted

_SHOWN_LAYERS = 8
_BLIND = "tried in the order in which they are expected to hurt"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search for mixed precision found: `QuantizeResult.search`.

    Attributes:
        met: Whether the model meets the budget.
        details: What was measured and demanded, one line for each demand.
        float_layers: Names of the layers left in float for it, in graph order.
        float_macs: Their multiply-accumulates for one sample.
        macs: Those of all layers that could be quantized.
        judged: Number of whole models that were run.
        samples: Samples that each was run on.
        doubts: What the samples cannot tell.
        layers: The layers by what each does alone, in graph order; empty where none had to change.
        unranked: Names of the layers that were not measured alone, because the time for it was over or a given ranking
            lacks them: their noise was estimated from those that were, or, where none was, from their own rounding.
        ranked_by: Where the order of the layers comes from, in words; empty where none was needed.
        ranked_samples: Samples that single layers were measured on.
        wide_layers: Names of the layers that took the step between the smallest type and float, in graph order:
            activations of 16 bits, or in mode "weight-only" weights of 8 bits.
        wide_macs: Their multiply-accumulates.
        wide_type: The type of that step; empty where there is none.
        wide_role: What has that type: "activations" or "weights".
        float_weights: Number of weights of the layers left in float.
        wide_weights: Number of weights of the layers that took the step.
        weights: Number of weights of all layers that could be quantized.
        counted: What the search kept as little of as possible in larger types: "arithmetic" or "weights".
        choices: Number of layers that could be left in float.
        searched: Whether other models than the first might be made (`search=`).
        stopped: Why the search ended before it was through: "the time was over", "interrupted", or nothing.
        seconds: Time taken.
    """

    met: bool
    details: tuple[str, ...]
    float_layers: tuple[str, ...]
    float_macs: int
    macs: int
    judged: int
    samples: int
    doubts: tuple[str, ...] = ()
    layers: tuple[LayerEffect, ...] = ()
    unranked: tuple[str, ...] = ()
    ranked_by: str = ""
    ranked_samples: int = 0
    wide_layers: tuple[str, ...] = ()
    wide_macs: int = 0
    wide_type: str = ""
    wide_role: str = "activations"
    float_weights: int = 0
    wide_weights: int = 0
    weights: int = 0
    counted: str = "arithmetic"
    choices: int = 0
    searched: bool = True
    stopped: str = ""
    seconds: float = 0.0

    def __repr__(self) -> str:
        return brief(
            self,
            "met" if self.met else "not met",
            f"{counted(len(self.float_layers), 'layer')} left in float",
            f"{len(self.wide_layers)} with {self.wide_type} {self.wide_role}" if self.wide_layers else None,
            f"{counted(self.judged, 'model')} judged on {counted(self.samples, 'sample')}",
        )

    def check(self) -> Check:
        """The budget as a check of the report."""
        parts = list[str]()
        if self.wide_layers or (self.float_layers and self.wide_type):
            wide = f"{counted(len(self.wide_layers), 'layer')} with {self.wide_type} {self.wide_role}"
            parts.append(f"{wide}, {self._share(self.wide_macs, self.wide_weights)}")
        if self.float_layers or not parts:
            floats = f"{counted(len(self.float_layers), 'layer')} left in float"
            parts.append(f"{floats}, {self._share(self.float_macs, self.float_weights)}")
        left = ", ".join(parts) if self.float_layers or self.wide_layers else "no layer left in float"
        return Check(
            name="accuracy budget",
            passed=self.met,
            detail=f"{'; '.join(self.details)}; {left}; {counted(self.judged, 'model')} judged on "
            f"{counted(self.samples, 'sample')}",
        )

    def _share(self, macs: int, weights: int) -> str:
        if self.counted == "weights":
            return f"{weights / max(1, self.weights):.1%} of the weights"
        return f"{macs / self.macs:.1%} of the arithmetic that could be int8" if self.macs else "no arithmetic"

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the search."""
        found = [f"accuracy budget met: {self.check().detail}"] if self.met else []
        for layers, what in (
            (self.float_layers, "left in float"),
            (self.wide_layers, f"{self.wide_role} are {self.wide_type}"),
        ):
            if layers:
                found.append(f"{what} for the accuracy budget: {_listed(layers)}")
        if self.ranked_by:
            found.append(self.ranked_by)
        if self.unranked:
            count = counted(len(self.unranked), "layer")
            found.append(
                f"{count} not measured alone, {'their noise estimated from the others' if self.ranked_by else _BLIND}: "
                f"{_listed(self.unranked)}"
            )
        found += self.doubts
        if self.stopped:
            more = "leave less in float" if self.met else "meet the demand"
            found.append(
                f"the search was not through ({self.stopped}); a longer one may {more}: search_seconds= "
                "(--search-seconds)"
            )
        elif self.searched and not self.met:
            found.append(self._why_not_met())
        return tuple(found)

    def _why_not_met(self) -> str:
        if self.choices == 1:
            return (
                "the search had nothing to choose: one layer can be quantized, and one at least stays so; a smaller "
                "demand, or recover='best' (--recover best), may be met"
            )
        return (
            f"the search went through all that it tries and ended: one layer at least of {self.choices} stays "
            "quantized, and the model that was written is the nearest to the demand of all that were judged"
        )


def checks_of(found: SearchResult | None) -> tuple[Check, ...]:
    """The check of a search, if there was one."""
    return () if found is None else (found.check(),)


def notes_of(found: SearchResult | None) -> tuple[str, ...]:
    """The notes of a search, if there was one."""
    return () if found is None else found.notes()


def _listed(layers: tuple[str, ...]) -> str:
    more = len(layers) - _SHOWN_LAYERS
    return ", ".join(layers[:_SHOWN_LAYERS]) + (f" and {more} more" if more > 0 else "")
