"""Freed memory goes back to the operating system."""

import subprocess
import sys

import pytest
from small_models import small_cfg

from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.ops import malloc

HELD = """
import sys
from slowfast_uniformer.ops.malloc import return_freed_memory

def allocate(mb):
    return bytearray(b"x") * int(mb * 2**20)

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 2**10 for line in file if line.startswith("VmRSS"))

if sys.argv[1] == "True":
    return_freed_memory()
for mb in (24, 31):  # glibc raises its threshold when it frees these
    allocate(mb)
before, lasting = resident(), []
for mb in (17, 20, 24, 28) * 3:  # freed, but between allocations that stay
    large = allocate(mb)
    lasting.append(allocate(0.25))
    lasting.append(large)
del large
lasting = lasting[::2]
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("called", "environment"), [(True, {}), (False, {}), (True, {"MALLOC_MMAP_THRESHOLD_": "100000000"})]
)
def test_freed_memory_is_returned_unless_the_environment_sets_the_threshold(called, environment, monkeypatch):
    """12 allocations of 267 MB in all are freed."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", HELD, str(called)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = float(done.stdout)
    assert held < 20 if called and not environment else held > 100


@pytest.mark.parametrize(("checkpointing", "gpus"), [(True, 0), (False, 0), (True, 1)])
def test_models_with_activation_checkpointing_on_the_cpu_have_it_returned(checkpointing, gpus, monkeypatch):
    calls = []
    monkeypatch.setattr(malloc, "return_freed_memory", lambda: calls.append(True))
    cfg = small_cfg(USE_CHECKPOINT=checkpointing)
    cfg.NUM_GPUS = gpus
    build_model(cfg)
    assert len(calls) == (checkpointing and gpus == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_the_smallest_threshold_holds(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, number, value):
            calls.append((number, value))

    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(malloc, "_threshold", sys.maxsize)
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _: Library())
    for above in (2**20, 2**24, 2**16):
        malloc.return_freed_memory(above)
    assert calls == [(-3, 2**20), (-1, 2**21), (-3, 2**16), (-1, 2**17)]
