"""Clips per second of models on the device, with each implementation of their operations."""

import os
import platform
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from model_speed import Subject, peak_rate
from timing import median_seconds
from torch import nn
from torch.utils._triton import has_triton

from gpu_parts.cases import Case, Row, free_memory
from gpu_parts.correctness import has_bf16, require_triton
from slowfast_uniformer.analysis.model_cost import cost
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.precision import cuda_settings
from slowfast_uniformer.engine.state import RunState
from slowfast_uniformer.engine.step import AMP_DTYPES, training_step
from slowfast_uniformer.models.layers import DropPath
from slowfast_uniformer.ops.implementations import Implementations

CONFIGS = Path(__file__).resolve().parents[3] / "configs/k400"
# Config and clips of a step on a GPU of 140 GB; where they do not fit, half as many are tried, and so on.
MODELS = {
    "UniFormer-S, 16x224": ("uniformer_s_16x8.yaml", 128),
    "UniFormerV2-B/16, 8x224": ("uniformerv2_b16_8x224.yaml", 128),
    "UniFormer-XXS, 16x128": ("uniformer_xxs_16x128.yaml", 512),
    "UniFormer-B, 16x224": ("uniformer_b_16x8.yaml", 64),
    "UniFormerV2-L/14, 8x224": ("uniformerv2_l14_8x224_k710.yaml", 32),
}
LAYOUTS = ("contiguous", "channels_last")
DW_CONVS = ("conv3d", "unrolled")
MATRIX_PRODUCT = "matrix product"
ONE_RATE = 0.1  # of stochastic depth, see `Measured`
TINY = {
    "Uniformer": ["UNIFORMER.EMBED_DIM", [8, 8, 16, 16], "UNIFORMER.DEPTH", [1] * 4, "UNIFORMER.HEAD_DIM", 8],
    "Uniformerv2": ["UNIFORMERV2.BACKBONE", "vit", "UNIFORMERV2.WIDTH", 32, "UNIFORMERV2.LAYERS", 4]
    + ["UNIFORMERV2.HEADS", 4, "UNIFORMERV2.PATCH_SIZE", 8, "UNIFORMERV2.INPUT_RESOLUTION", 32]
    + ["UNIFORMERV2.N_DIM", 32, "UNIFORMERV2.N_HEAD", 4, "UNIFORMERV2.RETURN_LIST", [0, 1, 2, 3]]
    + ["UNIFORMERV2.N_LAYERS", 4, "UNIFORMERV2.MLP_DROPOUT", [0.5] * 4],
}
TINY["Uniformer_light"] = [*TINY["Uniformer"], "UNIFORMER.PRUNE_RATIO", [[], [], [1], [0.5]]]
TINY["Uniformer_light"] += ["UNIFORMER.TRADE_OFF", [[], [], [1], [0.5]]]
TINY_CLIPS = ["DATA.NUM_FRAMES", 4, "DATA.TRAIN_CROP_SIZE", 32, "DATA.TEST_CROP_SIZE", 32]


def cases(gpus: int, folder: str) -> list[Case]:
    """The cases of this part, those first that matter most; `gpus` 0 is the dry run on the CPU. They write no files."""
    found = [Case(MATRIX_PRODUCT, matrix_product, {"gpus": gpus})]
    rounds = [(layout, dw_conv, False) for layout in LAYOUTS for dw_conv in DW_CONVS]
    rounds += [("contiguous", "conv3d", True), ("channels_last", "conv3d", True)]
    for layout, dw_conv, compiled in rounds:
        for model, (_, batch) in MODELS.items():
            if "V2" in model and dw_conv == "unrolled" or compiled and not gpus:
                continue  # V2 has no depth-wise convolutions for Kinetics; the CPU compiles in the other part
            name = f"{model}, {layout}, {dw_conv}{', compiled' * compiled}"
            arguments = {"model": model, "layout": layout, "dw_conv": dw_conv, "compiled": compiled, "gpus": gpus}
            arguments["batch"] = batch if gpus else 2
            found.append(Case(name, model_case, arguments, 100.0 if compiled else 45.0))
    return found


def describe(gpus: int) -> Row:
    """What the figures belong to, without the machine's name."""
    facts: Row = {"torch": str(torch.__version__), "python": platform.python_version(), "triton": has_triton()}
    facts |= {"cores": len(os.sched_getaffinity(0)), "gpu": None, "precision": precision(gpus)}
    if gpus:
        device = torch.cuda.get_device_properties(0)
        facts |= {"gpu": device.name, "gpu_gb": round(device.total_memory / 2**30, 1)}
        facts |= {"capability": f"{device.major}.{device.minor}", "cuda": torch.version.cuda or torch.version.hip}
        facts |= {"cudnn": torch.backends.cudnn.version()}
    pixels, auto = torch.empty(1, device="cuda" if gpus else "cpu"), Implementations()
    facts["auto_layout"] = "channels_last" if auto.uses_channels_last(pixels) else "contiguous"
    facts["auto_dw_conv"] = "unrolled" if auto.uses_unrolled(pixels) else "conv3d"
    return facts


def precision(gpus: int) -> str:
    """bf16, or fp16 on a GPU without it."""
    return "bf16" if has_bf16(gpus) else "fp16"


def model_cfg(model: str, gpus: int, *overrides: Any) -> CfgNode:
    """The config of a model with new weights on one device; in the dry run of a tiny model of its kind."""
    path = str(CONFIGS / MODELS[model][0])
    fresh = [
        "NUM_GPUS",
        gpus,
        "NUM_SHARDS",
        1,
        "TRAIN.AUTO_RESUME",
        False,
        "MODEL.INIT_FROM",
        "",
        "MODEL.INIT_HEAD",
        "keep",
    ]
    if not gpus:
        name = load_config(path, fresh).MODEL.MODEL_NAME
        fresh += [*TINY[name.removesuffix("_fp32")], *TINY_CLIPS]
    return load_config(path, [*fresh, *overrides])


@lru_cache
def giga_multiply_adds(model: str, gpus: int) -> float:
    """Of a forward pass of one clip, with the reference implementations."""
    cfg = model_cfg(model, gpus)
    return cost(cfg, crop=cfg.DATA.TRAIN_CROP_SIZE)[1]


def matrix_product(gpus: int) -> Row:
    """TFLOP/s of a product of two large matrices."""
    device = torch.device("cuda" if gpus else "cpu")
    rate = peak_rate(device, AMP_DTYPES[precision(gpus)], time.perf_counter, 8192 if gpus else 128)
    return {"tflops": rate / 1e3, "precision": precision(gpus)}


def model_case(model: str, layout: str, dw_conv: str, compiled: bool, gpus: int, batch: int) -> Row:
    """Forward pass and training step of a model, with as many clips of `batch`, its half and so on as fit."""
    if compiled and gpus:
        require_triton()
    overrides = ["MODEL.LAYOUT", layout, "MODEL.DW_CONV", dw_conv, "MODEL.COMPILE", compiled]
    cfg = model_cfg(model, gpus, *overrides, "TRAIN.MIXED_PRECISION", precision(gpus))
    figures = {
        "model": model if gpus else f"tiny, for {model}",
        "layout": layout,
        "dw_conv": dw_conv,
        "compiled": compiled,
    }
    with cuda_settings(cfg):
        while True:
            try:
                return figures | measure(cfg, batch, giga_multiply_adds(model, gpus))
            except Exception as error:
                if batch == 1 or not is_out_of_memory(error):
                    raise
            batch //= 2  # outside of `except`, as an error holds the tensors of its frames
            free_memory()


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short, for PyTorch or for a library that it calls."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text


class Measured(Subject):
    """A config's model and a batch for it.

    All blocks have one rate of stochastic depth, the first one, too, which has none in training. Blocks of the same
    shape then share a compiled graph; with rates of their own each would take its time to be compiled.
    """

    def __init__(self, cfg: CfgNode, batch: int):
        super().__init__(cfg, batch)
        paths = [module for module in self.model.modules() if isinstance(module, DropPath)]
        for module in paths if any(path.p > 0 for path in paths) else ():
            module.p = ONE_RATE
        self.run = RunState(cfg, self.model, None)

    def train(self) -> None:
        """A whole step, with the optimizer's."""
        training_step(self.run, self.clips, self.labels)


def measure(cfg: CfgNode, batch: int, gmacs: float) -> Row:
    """Rates and peak memory of a training step and of a forward pass in evaluation."""
    subject, figures = Measured(cfg, batch), {"batch": batch}
    device: torch.device = subject.device
    subject.model.train()
    for kind, work, passes in (("step", subject.train, 3), ("forward", subject.forward, 1)):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, first = median_seconds(work, device, 1.5 if device.type == "cuda" else 0.0)
        figures[f"{kind}_clips_per_second"] = batch / seconds
        figures[f"{kind}_tflops"] = batch / seconds * 2 * passes * gmacs / 1e3
        figures[f"{kind}_first_seconds"] = first
        if device.type == "cuda":
            figures[f"{kind}_peak_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        release_training(subject.run.net, subject)
    return figures


def release_training(net: nn.Module, subject: Measured) -> None:
    """Drop gradients and the optimizer's state, which an evaluation does not have."""
    net.zero_grad(set_to_none=True)
    subject.run.optimizer.state.clear()
