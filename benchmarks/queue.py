"""Work through the long runs: see `benchmarks.longruns`.

python -m benchmarks.queue [--runs DIRECTORY] [--rows PATTERN] [--status]
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path

if __name__ == "queue":
    # `python benchmarks/record.py` looks for modules in this folder first, and finds this one when something asks for
    # the standard library's. Hand that over.
    standard = importlib.util.spec_from_file_location("queue", Path(sysconfig.get_path("stdlib")) / "queue.py")
    if standard is None or standard.loader is None:
        raise ImportError("The standard library's module queue was not found.")
    sys.modules["queue"] = importlib.util.module_from_spec(standard)
    standard.loader.exec_module(sys.modules["queue"])
elif __name__ == "__main__":
    from benchmarks.longruns import main

    sys.exit(main(sys.argv[1:]))
