"""Weights, clips and gradient summaries that are drawn from names, so that none of them need be stored."""

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slowfast_uniformer.models.uniformer import Uniformer, UniformerLight
from slowfast_uniformer.models.uniformerv2 import BACKBONES, Uniformerv2

GOLDEN = Path(__file__).parent / "golden"
V1_OPTIONS = ("num_classes", "embed_dim", "depth", "head_dim", "mlp_ratio", "qkv_bias", "qkv_scale")
V2_IGNORED = ("output_dim", "t_size", "num_frames", "use_checkpoint", "checkpoint_num", "backbone")


def golden_json(area: str, case: str) -> dict:
    """tests/golden/<area>/<case>.json or .json.gz."""
    path = GOLDEN / area / f"{case}.json"
    if path.exists():
        return json.loads(path.read_text())
    return json.loads(gzip.decompress(path.with_suffix(".json.gz").read_bytes()))


def golden_cases(area: str, pattern: str) -> list[str]:
    """Names of the cases of an area that match a glob pattern, sorted."""
    return sorted({path.name.split(".")[0] for path in (GOLDEN / area).glob(f"{pattern}.json*")})


def golden_model(case: str, config: dict) -> nn.Module:
    """The model of a case in the areas forward and keys; of which family it is stands in the case's name."""
    if "v2" in case:
        options = {key: value for key, value in config.items() if key not in V2_IGNORED}
        return Uniformerv2(**options | BACKBONES.get(config.get("backbone"), {}))
    options = {key: config[key] for key in V1_OPTIONS} | {"drop_depth_rate": 0.0}
    if "light" not in case:
        return Uniformer(split=config["split"], std=config["std"], **options)
    options |= {key: config[key] for key in ("prune_ratio", "trade_off")}
    return UniformerLight(layer_scale="_ls_" in case, init_value=config["init_value"], fp32="fp32" in case, **options)


def drawn(name: str, shape: Sequence[int]) -> Tensor:
    """The value that the entry `name` of a state dict has in every golden model."""
    n = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF).standard_normal(tuple(shape) or (1,))
    if name.endswith("num_batches_tracked"):
        n = np.zeros_like(n)
    elif name.endswith("running_mean"):
        n = 0.1 * n
    elif name.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif name.endswith("weight") and len(shape) == 1:
        n = 1 + 0.1 * n
    elif name.endswith("weight"):
        n = n / np.sqrt(np.prod(shape[1:]))
    else:
        n = 0.1 * n
    return torch.from_numpy(n.astype(np.float32)).reshape(tuple(shape))


def fill(model: nn.Module) -> nn.Module:
    """Give every parameter and buffer of `model` its golden value; returns the model."""
    model.load_state_dict({name: drawn(name, value.shape) for name, value in model.state_dict().items()})
    return model


def golden_clip(shape: Sequence[int]) -> Tensor:
    """The input (B, 3, T, H, W) of the golden cases."""
    return torch.from_numpy(np.random.RandomState(12345).standard_normal(tuple(shape)).astype(np.float32))


def summary(name: str, grad: Tensor) -> tuple[float, float, float]:
    """Norm, sum, and product with a vector drawn from the name (tells permuted gradients), in float64."""
    flat = grad.detach().double().flatten().numpy()
    seed = (zlib.crc32(name.encode()) ^ 0x5BD1E995) & 0xFFFFFFFF
    dot = flat @ np.random.RandomState(seed).standard_normal(flat.size)
    return float(np.linalg.norm(flat)), float(flat.sum()), float(dot)
