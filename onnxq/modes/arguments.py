"""Which arguments of the public functions have a meaning in each mode."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping

from onnxq.calibration.runner import CollectKeywords, RunningKeywords
from onnxq.errors import ConfigError
from onnxq.keywords import defaults_of
from onnxq.modes.choices import StaticKeywords
from onnxq.planning.modes import DYNAMIC, MODES, STATIC, WEIGHT_ONLY, WEIGHT_TYPES
from onnxq.planning.weight_form import FormKeywords
from onnxq.targets.forms import NO_ACTIVATIONS
from onnxq.wording.flags import flag_of

_FORM = frozenset(defaults_of(FormKeywords))
_CALIBRATION = frozenset(
    {"activations", *defaults_of(StaticKeywords), *(defaults_of(CollectKeywords).keys() - defaults_of(RunningKeywords))}
)
_MEANINGLESS: Mapping[str, frozenset[str]] = {
    STATIC: _FORM,
    DYNAMIC: _CALIBRATION | _FORM,
    WEIGHT_ONLY: _CALIBRATION | {"min_int8"},
}


def check_mode(mode: str, group: type, given: Mapping[str, object]) -> None:
    """See that there is such a mode and that nothing was asked for that it has no use for.

    Args:
        mode: Its name.
        group: The keywords of the function that was called.
        given: Those that were given.

    Raises:
        ConfigError: there is no such mode, or an argument means nothing in it.
    """
    if mode not in MODES:
        close = difflib.get_close_matches(str(mode), MODES, n=1)
        raise ConfigError(
            f"unknown mode {mode!r}; known: {', '.join(MODES)}",
            hint=f"did you mean mode={close[0]!r} (--mode {close[0]})?" if close else "pass mode= (--mode)",
        )
    for name, default in defaults_of(group).items():
        if mode == WEIGHT_ONLY and name == "activations" and given.get(name) == NO_ACTIVATIONS:
            continue
        if name in given and name in _MEANINGLESS[mode] and given[name] != default:
            value = given[name]
            shown = reprlib.repr(value) if isinstance(value, (str, int, float, list, tuple)) else ""
            raise ConfigError(
                f"{name}={shown} ({flag_of(name)}) has no meaning in mode {mode!r}",
                hint=f"leave it out, or choose another mode= (--mode {'|'.join(MODES)})",
            )
    weights = given.get("weights")
    known = WEIGHT_TYPES.get(mode)
    if known is not None and weights is not None and weights not in known:
        raise ConfigError(
            f"mode {mode!r} writes weights as {' or '.join(known)}, not as {weights!r}",
            hint="pass another weights= (--weights) or mode= (--mode)",
        )
