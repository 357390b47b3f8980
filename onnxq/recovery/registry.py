"""What can be done to win back accuracy: steps with names, in the order in which they run, and bundles of them.

    rewrites of the float graph        planned, before it is calibrated        `Step.rewrite`
    the same, with few new ranges      once ranges are known                   `Step.levels`
    parameters of the weights          while parameters are solved             `Step.clips_weights`
    weights and biases                 once all parameters are known           `Step.adjust`

A step leaves the float function as it is, or is a choice of rounding; each can be switched on alone.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxq.calibration.progress import report_to
from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.planning.plan import QuantPlan
from onnxq.recovery.bias_correction import correct_biases
from onnxq.recovery.float_rewrites import FLOAT_REWRITES, FloatRewrite
from onnxq.recovery.reconstruction import reconstruct
from onnxq.recovery.solved import Solved
from onnxq.recovery.weight_rounding import round_weights
from onnxq.targets.schema import Target


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do; of `rewrite`, `levels`, `clips_weights` and `adjust` it has one.

    Attributes:
        name: Its name in `recover=` and --recover.
        summary: What it does, in a few words.
        rewrite: Turns the planned float graph into another one of the same function (see `float_rewrites`).
        levels: Channels of very uneven reach are made even (see `levelling`).
        clips_weights: Weights get the range with the least squared error, not all they hold.
        adjust: From the graph that earlier steps left to one with other constants of the same names and types.
        needs_biases: Every node with weights has to have a bias of its own.
    """

    name: str
    summary: str
    rewrite: FloatRewrite | None = None
    levels: bool = False
    clips_weights: bool = False
    adjust: Callable[[Solved, Graph], Graph] | None = None
    needs_biases: bool = False


def _correct(solved: Solved, chosen: Graph) -> Graph:
    report_to(solved.progress, "correcting biases", 0, None)
    return correct_biases(solved.graph, solved.plan, solved.qparams, solved.samples, solved.options, chosen=chosen)


STEPS: tuple[Step, ...] = (
    Step(
        name="equalize",
        summary="neighbouring layers share the spread of their channels",
        rewrite=FLOAT_REWRITES["equalize"],
    ),
    Step(
        name="smooth",
        summary="spread of activations goes into the weights that read them",
        rewrite=FLOAT_REWRITES["smooth"],
    ),
    Step(
        name="absorb",
        summary="offsets of channels go into the next layer's bias",
        rewrite=FLOAT_REWRITES["absorb"],
        needs_biases=True,
    ),
    Step(
        name="level",
        summary="channels of very uneven reach are made even where one scale serves them badly",
        levels=True,
    ),
    Step(name="clip", summary="weights are clipped where that costs less than it gains", clips_weights=True),
    Step(
        name="rounding",
        summary="weights are rounded so that outputs, not weights, come out right",
        adjust=round_weights,
    ),
    Step(
        name="bias", summary="biases take back the mean shift that rounding causes", adjust=_correct, needs_biases=True
    ),
    Step(
        name="reconstruct",
        summary="layer after layer, weights and biases make up for the errors before them",
        adjust=reconstruct,
        needs_biases=True,
    ),
)
"""Every step, in the order in which they run."""

BUNDLES: dict[str, tuple[str, ...]] = {
    "none": (),
    "fast": ("level", "reconstruct"),
    "best": ("level", "rounding", "reconstruct"),
}
"""Names for several steps at once."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The steps that were asked for, in their order."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, given: str | Sequence[str]) -> Recovery:
        """The recovery that a user means: a bundle, a step, or several steps, in any order.

        Raises:
            ConfigError: there is no such bundle or step, or a bundle stands among steps.
        """
        names = BUNDLES.get(given, (given,)) if isinstance(given, str) else tuple(given)
        known = [step.name for step in STEPS]
        for name in names:
            if name not in known:
                raise _unknown(name, known, among=not isinstance(given, str))
        return cls(steps=tuple(step for step in STEPS if step.name in names))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps)

    def layer_by_layer(self) -> Recovery:
        """The same for models in which layers may yet go back to float: what a layer gets depends on no other layer."""
        return Recovery.of(tuple({"reconstruct": "bias"}.get(name, name) for name in self.names))

    @property
    def needs_biases(self) -> bool:
        return any(step.needs_biases for step in self.steps)

    @property
    def needs_samples(self) -> bool:
        return any(step.adjust is not None for step in self.steps)

    @property
    def clips_weights(self) -> bool:
        return any(step.clips_weights for step in self.steps)

    @property
    def levels(self) -> bool:
        return any(step.levels for step in self.steps)

    @property
    def rewrites(self) -> bool:
        """Whether the float graph is rewritten before it is calibrated."""
        return any(step.rewrite is not None for step in self.steps)

    def rewritten(
        self, graph: Graph, plan: QuantPlan, target: Target, samples: Sequence[Batch], options: CollectOptions
    ) -> tuple[Graph, tuple[str, ...]]:
        """The planned graph, rewritten, and what was done, in sentences."""
        facts: list[str] = []
        for step in self.steps:
            if step.rewrite is not None:
                graph, found = step.rewrite(graph, plan, target, samples, options)
                facts += found
        return graph, tuple(facts)

    def adjusted(self, solved: Solved) -> Graph:
        """The float graph with the constants that will be quantized; `solved` is not changed."""
        graph = solved.graph
        for step in self._merged() if solved.samples else ():
            graph = step(solved, graph)
        return graph

    def _merged(self) -> list[Callable[[Solved, Graph], Graph]]:
        """What is done once parameters are known.

        Rounding and reconstruction go through the layers together; where biases are corrected behind it, rounding
        leaves the means to that.
        """
        adjusting = {step.name: step.adjust for step in self.steps if step.adjust is not None}
        if {"rounding", "reconstruct"} <= adjusting.keys():
            del adjusting["rounding"]
            adjusting["reconstruct"] = functools.partial(reconstruct, rounding=True)
        elif {"rounding", "bias"} <= adjusting.keys():
            adjusting["rounding"] = functools.partial(round_weights, centred=True)
        return list(adjusting.values())


def _unknown(name: str, known: list[str], *, among: bool) -> ConfigError:
    if among and name in BUNDLES:
        return ConfigError(
            f"{name!r} is a bundle of recovery steps and cannot stand among single ones",
            hint=f"pass recover={name!r} (--recover {name}), or steps alone: {', '.join(known)}",
        )
    close = difflib.get_close_matches(str(name), [*BUNDLES, *known], n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return ConfigError(
        f"unknown recovery {name!r}; known: {', '.join(BUNDLES)}, or one or more of {', '.join(known)}",
        hint=f"{guess}pass recover='fast' or recover=('rounding', 'bias') (--recover fast, --recover rounding,bias)",
    )
