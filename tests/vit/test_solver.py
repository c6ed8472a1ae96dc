"""What a solver in C prints does not get into the result."""

import subprocess
import sys


def test_what_is_printed_inside_goes_to_stderr() -> None:
    program = (
        "import ctypes, scipy.optimize\n"
        "c = ctypes.CDLL(None)\n"
        "scipy.optimize.milp = lambda *_, **__: c.puts(b'noise') and 7\n"
        "from vit.solver import milp\n"
        "found = milp([1])\n"
        "print('result', found)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "result 7\n"
    assert ended.stderr == "noise\n"
