"""Files inside installed packages, found without importing the package (its dependencies are not installed)."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_file(package: str, relative: str) -> Path | None:
    """Path of a file of an installed package; None if the package or the file is absent."""
    folder = package_folder(package)
    path = folder / relative if folder else None
    return path if path is not None and path.is_file() else None


def package_folder(package: str) -> Path | None:
    """Folder of an installed top-level package; None if it is absent."""
    spec = importlib.util.find_spec(package)  # a top-level name: looks, and runs nothing
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
