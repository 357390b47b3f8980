"""Which layers are in float and which are wider: up to three searches over sets of layers.

1. where all layers wider meet the budget, the fewest that do are wider and none is in float
2. where they do not, or there is no such step, layers go to float while the others are as wide as can be
3. then those others go back to the smallest type where the budget is still met
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from onnxq.calibration.progress import Callback, report_to
from onnxq.search.fewest import Excluded, Search, TimeIsUpError
from onnxq.search.referee import Judgement, Referee
from onnxq.search.space import NotMadeError, Space

STAGE = "searching"

_Sets = tuple[Excluded, Excluded]
"""Layers in float, and wider layers."""


class Asker:
    """Makes and judges the model with layers in float and wider ones, while there is time.

    Args:
        space: Makes the models.
        referee: Judges them.
        deadline: Value of `time.perf_counter()` from which on TimeIsUpError is raised.
        progress: Called before each model.
    """

    def __init__(self, space: Space, referee: Referee, deadline: float, progress: Callback | None) -> None:
        self._space, self._referee = space, referee
        self._deadline, self._progress = deadline, progress
        self.judged = 0
        self.seconds = 0.0
        """Time that the last model took."""

    def first(self) -> Judgement:
        """The model with every layer in the smallest type, judged whatever the time."""
        report_to(self._progress, STAGE, 0, None)
        return self._judged(frozenset(), frozenset())

    def __call__(self, search: Search, excluded: Excluded, wide: Excluded) -> Judgement:
        if time.perf_counter() > self._deadline:
            raise TimeIsUpError
        text = "none meets the budget yet"
        if search.best in search.judged and search.judged[search.best].met:
            share = search.total(search.best) / max(1, sum(search.cost.values()))
            text = f"best: {share:.1%} of the {self._space.counted} in larger types"
        report_to(self._progress, STAGE, self.judged, None, text)
        return self._judged(excluded, wide)

    def _judged(self, excluded: Excluded, wide: Excluded) -> Judgement:
        started = time.perf_counter()
        try:
            quantized = self._space.make(excluded, wide)
        except NotMadeError:
            return Judgement(shortfall=math.inf, details=("not tried",))
        self.judged += 1
        judgement = self._referee.judge(quantized)
        self.seconds = time.perf_counter() - started
        return judgement


class Form:
    """The searches of the module's docstring, and the best form known at any time.

    Args:
        space: The layers, what they cost, and which of them can be wider.
        asker: Judges forms.
        first: How the form did in which every layer has the smallest type.
    """

    def __init__(self, space: Space, asker: Asker, first: Judgement) -> None:
        self._asker, self._cost = asker, space.cost
        self._wider = frozenset[str]() if space.step is None else space.step.layers
        self._known: list[tuple[Search, Callable[[Excluded], _Sets]]] = []
        self._add(self._cost, {}, lambda floats: (floats, frozenset()), first)

    def search(self, noise: Mapping[str, float]) -> None:
        """Search for the cheapest form. Raises TimeIsUpError; `best` is valid at any time.

        Args:
            noise: By name of a layer, the noise power that it alone brings to the outputs, as far as that is known.
        """
        first = self._known[0][0].judged[frozenset()]
        if not self._wider:
            self._add(self._cost, noise, lambda floats: (floats, frozenset()), first).run()
            return
        # What is quantized around a layer in float stays wide as well.
        floats = self._add(self._cost, noise, lambda floats: (floats, self._wider))
        if floats.meets(frozenset()):
            self._add(self._wider, noise, lambda wide: (frozenset(), wide), first).run()
            return
        floats.run()
        fixed = floats.best
        others = self._wider - fixed
        if floats.judged[fixed].met and others:
            self._add(others, noise, lambda wide: (fixed, wide | fixed)).run()

    def best(self) -> tuple[Excluded, Excluded, Judgement]:
        """Layers in float, wider layers (which may hold some of the first), and how that form did: the cheapest."""
        found = [(*sets(search.best), search.judged[search.best]) for search, sets in self._known if search.judged]

        def key(form: tuple[Excluded, Excluded, Judgement]) -> tuple[float, int, int]:
            floats, wide = form[0], form[1] - form[0]
            return form[2].shortfall, self._total(floats), self._total(wide)

        return min(found, key=key)

    def _total(self, names: Excluded) -> int:
        return sum(self._cost[name] for name in names)

    def _add(
        self,
        names: Mapping[str, int] | Excluded,
        noise: Mapping[str, float],
        sets: Callable[[Excluded], _Sets],
        first: Judgement | None = None,
    ) -> Search:
        # In graph order, which decides between equals.
        cost = {name: value for name, value in self._cost.items() if name in names}
        search = Search(cost=cost, noise=noise, ask=lambda chosen: self._asker(search, *sets(chosen)))
        if first is not None:
            search.judged[frozenset()] = first
        self._known.append((search, sets))
        return search
