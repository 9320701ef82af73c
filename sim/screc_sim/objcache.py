"""Compile a file of Verilator's own library once for all models: ``OBJCACHE`` of its makefiles.

These files are the same for every model and take half of a small one's compile time. Run as a
program: a folder of kept objects, which is that of one set of tools, then the compiler's command.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(folder: Path, command: list[str]) -> int:
    """Run ``command``, or copy the object that the same command made before; its exit status."""
    source = Path(command[-1])
    if not (source.is_absolute() and source.name.startswith("verilated") and "-o" in command):
        return subprocess.call(command)  # a file of the model's, or one that includes its header
    made = Path(command[command.index("-o") + 1])
    kept = folder / f"{source.stem}-{hashlib.sha256(repr(command).encode()).hexdigest()[:20]}.o"
    if kept.exists():
        shutil.copyfile(kept, made)
        return 0
    if status := subprocess.call(command):
        return status
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(made.read_bytes())
    Path(file.name).replace(kept)  # another build may be reading or writing the same
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
