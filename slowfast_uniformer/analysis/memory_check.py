"""Planned memory of training steps against the measured peak on this machine's CPU."""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from slowfast_uniformer.analysis.model_cost import meta_model, step_cost
from slowfast_uniformer.analysis.rank_memory import peak_memory, rank_memory
from slowfast_uniformer.config.keys import read_table
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.ops.malloc import return_freed_memory

CHECKED = read_table(Path(__file__).with_suffix(".yaml"))  # configs of three small models
_CHECKPOINTING = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [10**6] * 4]


def small_configs() -> dict[str, CfgNode]:
    """The configs that are checked unless another is given: each model with and without activation checkpointing."""
    return {
        f"{name}{', activation checkpointing' if overrides else ''}": load_config([CHECKED["common"], model], overrides)
        for name, model in CHECKED["models"].items()
        for overrides in ([], _CHECKPOINTING)
    }


def check(configs: dict[str, CfgNode]) -> list[dict[str, Any]]:
    """The planned peak of a step on the CPU in one process, the measured one, and their ratio, of each config."""
    rows = []
    for name, cfg in configs.items():
        planned = peak_memory(rank_memory(cfg, meta_model(cfg), "ddp"), step_cost(cfg), "ddp")
        measured = measure(cfg)
        rows.append({"name": name, "planned": planned, "measured": measured, "ratio": planned / measured})
    return rows


def measure(cfg: CfgNode) -> int:
    """Peak resident bytes of three training steps on random clips, above what a new process had before the model.

    Freed memory is returned to the system at once there, so that what is measured is what is in use. By its own
    settings, or with MALLOC_MMAP_THRESHOLD_ in the environment, glibc keeps some back.

    Raises:
        UserError: where Linux's /proc or glibc is missing, or if the process is killed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_measure_here, cfg).result()
    except BrokenProcessPool:
        raise UserError("the measuring process was killed; with a smaller batch it needs less") from None
    except (OSError, AttributeError) as error:
        raise UserError(f"memory is measured on Linux with glibc only ({error})") from None


def _measure_here(cfg: CfgNode) -> int:
    return_freed_memory(above=2**16)
    torch.set_num_threads(1)
    _steps(cfg, clips=1, count=1)  # loads code and tables that the first use loads
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clips = topology.planned(cfg).clips_per_rank(cfg)
    return peak_growth(lambda: _steps(cfg, clips, count=3))  # the optimizer's state exists from the second on


def peak_growth(work: Callable[[], Any]) -> int:
    """Peak resident bytes of this process during `work`, above what it has before (Linux)."""

    def resident(key: str) -> int:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def _steps(cfg: CfgNode, clips: int, count: int) -> None:
    """Training steps of a new model on random clips."""
    run = start_run(cfg, None)
    run.model.train()
    side = cfg.DATA.TRAIN_CROP_SIZE
    x = torch.randn(clips, 3, cfg.DATA.NUM_FRAMES, side, side)
    y = torch.randint(cfg.MODEL.NUM_CLASSES, (clips,))
    for _ in range(count):
        training_step(run, x, y)
