"""How long a person waits before anything happens: `import tilevit` and `tilevit --help`, in fresh processes.

    python benchmarks/startup.py

The interpreter's own start is timed in the same rounds and shown beside them. Targets: 0.3 s and 0.8 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 7
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import tilevit": ["-c", "import tilevit"],
    "tilevit --help": ["-c", "from tilevit.cli import main; main(['--help'])"],
}


def main() -> None:
    """Print the median and the range of each command, in seconds and as a ratio to the bare interpreter."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    bare = statistics.median(seconds["python -c pass"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        span = f"{min(times):.3f}-{max(times):.3f}"
        print(f"{name:<16} median {middle:.3f} s  range {span} s  {middle / bare:.1f} x bare")


if __name__ == "__main__":
    main()
