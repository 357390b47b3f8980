"""What a prompt shows of a result: a line, however large the model."""

from __future__ import annotations

from onnxq.wording.plural import counted


def brief(value: object, *facts: str | tuple[int, str] | None) -> str:
    """One line about `value`.

    Args:
        value: What it is about; its class is named.
        facts: What matters most first; a count with its noun, which is left out where there is none, or a sentence's
            part; None is left out.

    >>> brief(ValueError(), "passed", (2, "sample"), (0, "warning"), None)
    '<onnxq.ValueError: passed, 2 samples>'
    """
    said = (counted(*fact) if isinstance(fact, tuple) and fact[0] else fact for fact in facts)
    return f"<onnxq.{type(value).__name__}: {', '.join(text for text in said if isinstance(text, str))}>"
