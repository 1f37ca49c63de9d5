"""Convert weights of any known checkpoint format to safetensors, or a sharded run's checkpoint folder to one file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.paths import atomic_path
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.files import METADATA_KEYS
from slowfast_uniformer.weights.load import dropped_summary, read_weights
from slowfast_uniformer.wording import counted


def convert(source: str, target: str) -> list[str]:
    """Write the weights of `source`, under this program's parameter names, to `target`.

    Class names, config, ViT variant and the like are written as metadata of the safetensors file, so that it loads as
    the original does. A .pyth target is for a .dcp folder: it gets the whole checkpoint, optimizer state included.

    Args:
        source: a path or name as in MODEL.INIT_FROM (see `resolve.resolve`).
        target: a new file, .safetensors, or .pyth where `source` is a .dcp folder.

    Returns:
        Lines for people: the checkpoint format, what was written and what was dropped.

    Raises:
        UserError: `source` cannot be read, or `target` exists, has another ending or cannot be written.
    """
    if not target.endswith((".safetensors", ".pyth") if os.path.isdir(source) else ".safetensors"):
        raise UserError(f"{target}: the name must end in .safetensors (or in .pyth, to convert a .dcp folder)")
    if os.path.exists(target):
        raise UserError(f"{target} exists; remove it, or choose another name")
    if target.endswith(".pyth"):
        checkpoints.write_checkpoint(os.path.abspath(target), checkpoints.load_checkpoint(source))
        return [f"{source}: written to {target}, with everything that resuming needs"]
    weights = read_weights(source)
    # the key in files stays "arithmetic": files written by earlier versions must load
    metadata = weights.metadata | {"arithmetic": weights.vit_variant, "image": weights.image}
    metadata = {key: metadata[key] for key in METADATA_KEYS if metadata.get(key)}
    with os_errors_reported(f"cannot write {target}"), atomic_path(target) as temporary:
        write_safetensors(temporary, weights.tensors, metadata)
    size = sum(value.numel() for value in weights.tensors.values())
    details = [*dropped_summary(weights.dropped), *(f"{key}: {value}" for key, value in weights.vit_variant.items())]
    return [
        f"{source}: {weights.checkpoint_format}" if weights.checkpoint_format else source,
        f"  {counted(len(weights.tensors), 'tensor')}, {size / 1e6:.2f} M numbers, to {target}",
        *(f"  {line}" for line in details),
    ]


def write_safetensors(path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors with metadata (those of `files.METADATA_KEYS` are read again). Raises OSError."""
    own = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(own, {"format": "pt", "slowfast_uniformer": json.dumps(metadata)})
    Path(path).write_bytes(data)  # safetensors' own writing reports a full disk in another way
