"""The noise of layers that were not measured alone, from those that were.

    noise = own * gain      own: what the layer's rounding makes of its operands (`expected.py`); costs no inference
                            gain: how much of it reaches the outputs of the model, known of the layers measured

Networks repeat themselves: layers of one kind, the same operator with as many weights, do the same work block after
block, and their gain changes slowly along the graph. So log(gain) is interpolated, by place, between measured layers of
the same kind, or between all measured layers where none of the kind was. `spread_order` measures the ends of each kind
first, then what lies in the middle of what is known.

On 14 pairs of model and mode, a fifth of the layers measured in this order and 40 % of disorder between single layers
and the whole, five questions to a search (`fewest.py`) left 43 % of 4-bit weights in larger types and 30 % of 8-bit
arithmetic in float. With layers that were not measured behind the others, whatever their own noise, it was 72 and 58 %;
with all of them measured, 19 and 20 %.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from onnxq.search.expected import expected_harm
from onnxq.search.layers import Layer

_LEAST = 1e-30
"""Noise that counts as none: its logarithm is finite."""


def estimated_noise(
    layers: Sequence[Layer], measured: Mapping[str, float], own: Mapping[str, float]
) -> dict[str, float]:
    """The noise of every layer: what was measured, and estimates; if nothing was, how much they are expected to hurt.

    Args:
        layers: All layers, in graph order.
        measured: Noise power at the outputs, by name, of layers that were measured alone.
        own: Noise power of each layer's own rounding, by name.
    """
    if not measured:
        return expected_harm({layer.node: own[layer.node] for layer in layers})
    places = {layer.node: place for place, layer in enumerate(layers)}
    known = [layer for layer in layers if layer.node in measured]
    found = {}
    for members in _kinds(layers).values():
        reference = [layer for layer in members if layer.node in measured] or known
        at = [places[layer.node] for layer in reference]
        gains = [_log(measured[layer.node]) - _log(own[layer.node]) for layer in reference]
        for layer in members:
            name = layer.node
            gain = float(np.exp(np.interp(places[name], at, gains)))
            found[name] = measured[name] if name in measured else own[name] * gain
    return {layer.node: found[layer.node] for layer in layers}


def spread_order(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, so that the first ones tell most of the others: of each kind both ends, then between those.

    Args:
        layers: In graph order.
    """
    rounds = list[tuple[float, int, Layer]]()
    for number, members in enumerate(_kinds(layers).values()):
        count = len(members)
        rounds += [(turn / count, number, members[at]) for turn, at in enumerate(_halving(count))]
    return [layer for _, _, layer in sorted(rounds, key=lambda entry: entry[:2])]


def _kinds(layers: Sequence[Layer]) -> dict[Hashable, list[Layer]]:
    kinds: dict[Hashable, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault((layer.op, layer.weights), []).append(layer)
    return kinds


def _halving(count: int) -> list[int]:
    """0 to count - 1: the ends, the middle, the quarters and so on.

    >>> _halving(9)
    [0, 8, 5, 3, 6, 2, 4, 1, 7]
    """
    found = dict.fromkeys([0, count - 1])
    step = count
    while len(found) < count:
        step = (step + 1) // 2
        found.update(dict.fromkeys(range(0, count, step)))
    return list(found)


def _log(value: float) -> float:
    return float(np.log(max(value, _LEAST)))
