"""A copy of the installed onnxruntime that takes this CPU for one without AVX512 and VNNI, to see `ort-x64-avx2` run.

    python -m benches.without_vnni FOLDER
    PYTHONPATH=FOLDER python -m benches.latency --engines onnxruntime --target ort-x64-avx2

onnxruntime picks its kernels by the cpuid instruction. In the copy a breakpoint stands in its place, and a handler
(`without_vnni.c`) answers without those features. So AVX2 kernels run, at full speed, saturating sums included.
Linux on x64, a C compiler and binutils are needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

CPUID, BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"
_TOOLS = ("cc", "objdump", "readelf")


def is_possible() -> bool:
    """Whether this machine has what it takes."""
    linux_x64 = platform.system() == "Linux" and platform.machine().lower() in ("x86_64", "amd64")
    return linux_x64 and all(shutil.which(tool) for tool in _TOOLS)


def make(folder: Path) -> int:
    """Write the copy as a package below `folder`, and say how many instructions were replaced."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("onnxruntime is not installed")
    package = folder / "onnxruntime"
    shutil.copytree(Path(spec.origin).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    handler = folder / "without_vnni.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(handler), str(source)], check=True)
    library = next((package / "capi").glob("onnxruntime_pybind11_state*.so"))
    code = bytearray(library.read_bytes())
    places = list(_places(library))
    for place in places:
        if code[place : place + 2] != CPUID:
            raise ValueError(f"no cpuid instruction at byte {place} of {library.name}")
        code[place : place + 2] = BREAKPOINT
    library.chmod(0o644)
    library.write_bytes(code)
    init = package / "__init__.py"
    first = f"import ctypes\n\nctypes.CDLL({str(handler.resolve())!r})\n"
    init.write_text(first + init.read_text(encoding="utf-8").replace("from __future__ import annotations\n", ""))
    return len(places)


def _places(library: Path) -> Iterator[int]:
    """Where in the file its cpuid instructions are."""
    sections = subprocess.run(["readelf", "-SW", str(library)], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\.text\s+PROGBITS\s+([0-9a-f]+)\s+([0-9a-f]+)", sections)
    if found is None:
        raise ValueError(f"{library.name} has no code")
    shift = int(found[1], 16) - int(found[2], 16)
    listing = ["objdump", "-d", "-j", ".text", "--no-show-raw-insn", str(library)]
    with subprocess.Popen(listing, stdout=subprocess.PIPE, text=True) as disassembler:
        assert disassembler.stdout is not None
        for line in disassembler.stdout:
            if line.rstrip().endswith("cpuid"):
                yield int(line.partition(":")[0], 16) - shift


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new or empty folder")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{make(folder)} instructions replaced; set PYTHONPATH={folder.resolve()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
