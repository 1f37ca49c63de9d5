"""tools/benchmarks/lists.py on a short list."""

import json
import subprocess
import sys

from conftest import ROOT


def test_figures_of_a_list():
    command = [sys.executable, str(ROOT / "tools/benchmarks/lists.py"), "--lines", "2000", "--header", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)["rows"]
    assert found["lines"] == 2000 and found["worker_growth_mb"] < 10 and found["cpu_seconds"] >= 0
