"""Prints a command of the README: `python scripts/readme_command.py NAME`.

It is the block of code behind the mark `<!-- command: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def readme_command(name: str) -> str:
    """The one line of the block of code that follows the mark `name`.

    Raises:
        LookupError: the README has no such block.
    """
    found = re.search(rf"<!-- command: {name} -->\n```sh\n(.+)\n```", README.read_text(encoding="utf-8"))
    if found is None:
        raise LookupError(f"README.md has no one-line block behind '<!-- command: {name} -->'")
    return found[1]


if __name__ == "__main__":
    sys.stdout.write(readme_command(sys.argv[1]) + "\n")
