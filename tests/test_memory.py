"""Memory that a process gives back to the system."""

import subprocess
import sys

import pytest

HELD = """
import sys
import torch
from slowfast_uniformer.ops import malloc
from slowfast_uniformer.config import load_config
from slowfast_uniformer.models import build_model

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 2**10 for line in file if line.startswith("VmRSS"))

keys = ["NUM_GPUS", 0, "UNIFORMER.DEPTH", [1] * 4, "MODEL.USE_CHECKPOINT", sys.argv[1] == "True"]
model = build_model(load_config(None, [*keys, "MODEL.CHECKPOINT_NUM", [1] * 4]))
for mb in (24, 31):  # glibc learns from the first freed pieces to keep such
    torch.ones(mb * 2**18)
before, lasting = resident(), []
for mb in (17, 20, 24, 28) * 3:  # freed, but between pieces that stay
    piece = torch.ones(mb * 2**18)
    lasting.append(torch.ones(2**16))
    lasting.append(piece)
del piece
lasting = lasting[::2]
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
@pytest.mark.parametrize(
    ("recomputes", "environment"), [(True, {}), (False, {}), (True, {"MALLOC_MMAP_THRESHOLD_": "100000000"})]
)
def test_a_model_that_recomputes_gives_memory_back(recomputes, environment, monkeypatch):
    """12 pieces of 267 MB in all are freed."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", HELD, str(recomputes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = float(done.stdout)
    assert held < 20 if recomputes and not environment else held > 100
