"""Convert weights of any known program to safetensors in this program's names, or the checkpoint that a
sharded run has written (a folder) to the one file that other runs write, with all that continuing needs.

python tools/convert_weights.py IN OUT.safetensors
python tools/convert_weights.py runs/big/checkpoints/epoch_00003.dcp OUT.pyth
"""

import argparse
import json
import os

from common import finish
from safetensors.torch import save_file

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.files import BESIDE
from slowfast_uniformer.weights.load import dropped_summary, read_weights


def convert(source: str, target: str) -> list[str]:
    """Write what `weights.read` makes of `source` to `target`; returns lines on what became of its tensors.

    What a checkpoint tells beside its tensors (class names, config, arithmetic) goes along as metadata, so
    that the file loads as the original does.
    """
    if not target.endswith((".safetensors", ".pyth") if os.path.isdir(source) else ".safetensors"):
        raise UserError(f"{target}: the file to write must end in .safetensors (or .pyth, for a folder .dcp)")
    if os.path.exists(target):
        raise UserError(f"{target} exists; remove it or choose another name")
    if target.endswith(".pyth"):
        checkpoints.write_checkpoint(os.path.abspath(target), checkpoints.load_checkpoint(source))
        return [f"{source}: all of it in {target}"]
    read = read_weights(source)
    beside = read.about | {"arithmetic": read.arithmetic, "image": read.image}
    told = {key: beside[key] for key in BESIDE if beside.get(key)}
    tensors = {name: value.contiguous().clone() for name, value in read.tensors.items()}
    try:
        save_file(tensors, target + ".tmp", {"format": "pt", "slowfast_uniformer": json.dumps(told)})
        os.umask(mask := os.umask(0))
        os.chmod(target + ".tmp", 0o666 & ~mask)  # it is written for its owner's eyes alone
        os.replace(target + ".tmp", target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    size = sum(value.numel() for value in tensors.values())
    lines = [f"{source}: {read.dialect}", f"  {len(tensors)} tensors, {size / 1e6:.2f} M numbers, to {target}"]
    return lines + [
        f"  {line}" for line in [*dropped_summary(read.dropped), *(f"{k}: {v}" for k, v in read.arithmetic.items())]
    ]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convert weights of any known program to safetensors.")
    parser.add_argument("source", metavar="IN", help="a file, or its name in $SLOWFAST_UNIFORMER_WEIGHTS")
    parser.add_argument("target", metavar="OUT", help="the .safetensors (or .pyth) file to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print("\n".join(convert(args.source, args.target)))


if __name__ == "__main__":
    finish(main)
