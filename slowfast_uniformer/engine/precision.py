"""Settings of CUDA that a process has but once, and what full precision costs on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fvcore.common.config import CfgNode


@contextmanager
def cuda_settings(cfg: CfgNode) -> Iterator[None]:
    """Apply TRAIN.TF32 and TRAIN.CUDNN_BENCHMARK to this process, and put back what was there before.

    `auto` leaves TF32 as it is: PyTorch uses it in convolutions and not in matrix products. cuDNN measures its
    algorithms only in mixed precision: another algorithm rounds otherwise, and fp32 is what reproduces a release.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    settings = []
    if cfg.TRAIN.TF32 != "auto":
        settings += [(matmul, "allow_tf32", cfg.TRAIN.TF32), (cudnn, "allow_tf32", cfg.TRAIN.TF32)]
    if cfg.TRAIN.CUDNN_BENCHMARK != "auto":
        settings.append((cudnn, "benchmark", cfg.TRAIN.CUDNN_BENCHMARK))
    elif cfg.TRAIN.MIXED_PRECISION != "none":
        settings.append((cudnn, "benchmark", True))
    before = [(module, name, getattr(module, name)) for module, name, _ in settings]
    try:
        for module, name, value in settings:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def bf16_gpu(device: torch.device) -> str:
    """The name of a GPU whose tensor cores compute in bf16 (and TF32); "" for other devices."""
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return ""
    return torch.cuda.get_device_name(device)


def fp32_note(cfg: CfgNode, device: torch.device) -> str:
    """What training in fp32 costs on a GPU that has bf16, and the keys that change it; "" where that is no matter."""
    gpu = bf16_gpu(device) if cfg.TRAIN.MIXED_PRECISION == "none" else ""
    if not gpu:
        return ""
    tf32 = {"matrix products": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32}
    used = " and ".join(name for name, allowed in tf32.items() if allowed)
    unused = " and ".join(name for name, allowed in tf32.items() if not allowed)
    costs = []
    if unused:
        costs.append(f"{unused} do without its tensor cores, as TF32 is off (TRAIN.TF32 True)")
    if used:
        costs.append(f"{used} use TF32, at half the peak rate of bf16")
    return (
        f"TRAIN.MIXED_PRECISION none on {gpu}, which has bf16: {'; '.join(costs)}; activations take twice the memory. "
        "TRAIN.MIXED_PRECISION bf16 changes that"
    )
