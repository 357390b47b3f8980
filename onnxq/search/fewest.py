"""The least that has to be left in float to meet a budget: a search over sets of layers. Pure: it runs no model.

    1. all layers in int8. Met: done.
    2. if noises added up, which layers would leave a part of the noise at the least cost? Where the demands are ones of
       noise, that set is asked about which leaves as much less of it as the whole model lacks, then sets for the levels
       that the answers point to; otherwise sets for 2, 4, 8, ... dB less until the budget is met. Levels between one
       that met it and one that did not are found by bisection, as far as answers do not tell.
    3. where no such set met it, layers go to float in an order, the most harmful first, 1, 2, 4, 8, ... of them, and
       the smallest number is found by bisection. Two orders: by noise for each unit of cost, and by noise.
    4. where no such set met it either, the closest one grows by single layers, the most harmful first, each kept if it
       helps: a layer may matter to one output or class alone, and come late in every order.
    5. give back: each layer that is in float returns to int8 where the budget is still met, the dearest first; behind
       the others those whose own noise is more than the demands leave room for.

Whether a set meets the budget is asked of the whole model each time, never added up from single layers. A set that
costs as much as the best one known is not asked about. Sets are asked about once.

With noises measured on eight models and 40 % of disorder between them and the whole, 8 questions to step 2 by doubling
and bisection left 22 % of the cost in float, to step 3 alone 24 % (5 questions: 28 and 47 %); asked to the end, both
left 18 to 19 %. Levels that follow from the answers were worth 2 to 3 points more after 5 questions (14 models and
modes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxq.search.referee import Judgement

Excluded = frozenset[str]


_FIRST_DB, _LAST_DB = 2.0, 128.0
"""Less noise to begin with, and so much that nothing of the model's noise is left."""

_DISORDER = 1.4
"""By how much a layer's part in the noise of the whole may differ from its noise alone."""

_FINEST_DB = 0.25
"""Levels of noise nearer than this are alike, beside what the sum of single noises is off by."""


class TimeIsUpError(Exception):
    """The search has used up its time."""


@dataclass
class Search:
    """The state of one search; `best` is valid at any time after the first judgement.

    Attributes:
        cost: What each layer costs in float: multiply-accumulates, or weights.
        noise: Noise power that each layer alone brings to the outputs, as a share of the signal's.
        ask: Judges the model with a set of layers in float. May raise TimeIsUpError.
        judged: Every set asked about.
        best: The cheapest set that meets the budget, or else the one closest to it.
    """

    cost: Mapping[str, int]
    noise: Mapping[str, float]
    ask: Callable[[Excluded], Judgement]
    judged: dict[Excluded, Judgement] = field(default_factory=dict)
    best: Excluded = frozenset()

    def run(self) -> None:
        """Search until there is nothing left to try."""
        if self.meets(frozenset()):
            return
        self._lower_the_noise()
        if not self.judged[self.best].met:
            for order in self._orders():
                self._shortest_prefix(order)
        if not self.judged[self.best].met:
            self._grow(self._orders()[1])
        if self.judged[self.best].met:
            self._give_back()

    def total(self, excluded: Excluded) -> int:
        """What a set costs."""
        return sum(self.cost[name] for name in excluded)

    def meets(self, excluded: Excluded) -> bool:
        """Whether the model with these layers in float meets the budget; it is run if that is not known."""
        if excluded not in self.judged:
            self.judged[excluded] = self.ask(excluded)
            self._keep(excluded)
        return self.judged[excluded].met

    def _keep(self, excluded: Excluded) -> None:
        def key(candidate: Excluded) -> tuple[float, int, int]:
            return self.judged[candidate].shortfall, self.total(candidate), len(candidate)

        if self.best not in self.judged or key(excluded) < key(self.best):
            self.best = excluded

    def _pays(self, excluded: Excluded) -> bool:
        """Whether a set would be better than the best one, if it met the budget."""
        return not self.judged[self.best].met or self.total(excluded) < self.total(self.best)

    def _orders(self) -> tuple[list[str], list[str]]:
        """The layers, the most harmful first: by noise for each unit of cost, and by noise."""
        per_cost = sorted(self.cost, key=lambda name: -self.noise[name] / max(1, self.cost[name]))
        return per_cost, sorted(self.cost, key=lambda name: -self.noise[name])

    def _lower_the_noise(self) -> None:
        none = frozenset[str]()
        low, high, level = 0.0, math.inf, self._missing(none) or _FIRST_DB
        while level <= _LAST_DB:
            width, chosen, missing = high - low, self._cheapest(level), None
            # One layer at least stays in int8, and what costs more than the best set known is of no use.
            if len(chosen) == len(self.cost) or not self._pays(chosen):
                high = min(high, level)
            else:
                met, missing = self.meets(chosen), self._missing(chosen)
                low, high = (low, min(high, level)) if met else (max(low, level), high)
            if high - low <= _FINEST_DB:
                return
            guess = math.nan if missing is None else level + missing
            if math.isinf(high):
                level = max(guess, low + _FIRST_DB / 2.0) if missing is not None else 2.0 * level
            elif high - low > width / 2.0 or not low < guess < high:
                level = (low + high) / 2.0
            else:
                level = min(max(guess, low + _FINEST_DB), high - _FINEST_DB)

    def _missing(self, excluded: Excluded) -> float | None:
        """How much less noise a set would need that was asked about, in dB, if that can be said."""
        return self.judged[excluded].missing_db

    def _cheapest(self, less_db: float) -> Excluded:
        """Layers whose noises, taken from the sum of all, leave so much less of it, at little cost."""
        total = sum(self.noise[name] for name in self.cost)
        level = total * 10.0 ** (-less_db / 10.0)
        sets = [self._leaving(level, total, order) for order in self._orders()]
        return min(sets, key=lambda chosen: (self.total(chosen), len(chosen)))

    def _leaving(self, level: float, total: float, order: Sequence[str]) -> Excluded:
        chosen, left = list[str](), total
        for name in order:
            if left <= level:
                break
            chosen.append(name)
            left -= self.noise[name]
        for name in sorted(chosen, key=lambda layer: (-self.cost[layer], self.noise[layer])):
            if left + self.noise[name] <= level:
                chosen.remove(name)
                left += self.noise[name]
        return frozenset(chosen)

    def _shortest_prefix(self, order: Sequence[str]) -> None:
        low, high = 0, 1
        last = len(order) - 1  # one layer at least stays in int8
        while high <= last and self._pays(frozenset(order[:high])) and not self.meets(frozenset(order[:high])):
            low, high = high, 2 * high
        if high > last:
            high = last
            if high <= low or not self._pays(frozenset(order[:high])) or not self.meets(frozenset(order[:high])):
                return
        while high - low > 1:
            middle = (low + high) // 2
            prefix = frozenset(order[:middle])
            if not self._pays(prefix) or self.meets(prefix):
                high = middle
            else:
                low = middle

    def _grow(self, order: Sequence[str]) -> None:
        for name in order:
            # `best` becomes the larger set where that is closer to the budget.
            if name not in self.best and len(self.best) < len(order) - 1 and self.meets(self.best | {name}):
                return

    def _give_back(self) -> None:
        room = self._room()
        for name in sorted(self.best, key=lambda n: (self.noise[n] > room, -self.cost[n], self.noise[n], n)):
            # `best` becomes the smaller set where that still meets the budget.
            self.meets(self.best - {name})

    def _room(self) -> float:
        """How much more noise the best set might stand, beside what the sum of single noises is off by."""
        missing = self._missing(self.best)
        if missing is None:
            return math.inf
        left = sum(noise for name, noise in self.noise.items() if name in self.cost and name not in self.best)
        return left * (_DISORDER * math.pow(10.0, -missing / 10.0) - 1.0)
