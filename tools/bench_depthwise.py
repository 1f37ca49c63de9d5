"""Time the depth-wise 3-D convolution of models/layers.py, forward and backward, against PyTorch's conv3d, on
the CPU.

    python tools/bench_depthwise.py [--threads 1] [--repeats 5]

The two alternate in one process; a row gives the fastest of each and their ratio, for layers of UniFormer-S
at 16 frames of 224 pixels and for small ones. Figures are in docs/performance.md.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from slowfast_uniformer.models.layers import DepthwiseConv3d

SHAPES = [(2, 64, 8, 56, 5), (2, 64, 8, 56, 3), (2, 128, 8, 28, 5), (2, 320, 8, 14, 3), (16, 32, 4, 16, 5)]


def seconds(layer: Callable, x: torch.Tensor) -> float:
    start = time.perf_counter()
    layer(x).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark the depth-wise convolution.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("batch channels frames side kernel   conv3d ms   here ms   ratio")
    for batch, dim, frames, side, kernel in SHAPES:
        x = torch.randn(batch, dim, frames, side, side, requires_grad=True)
        ours = DepthwiseConv3d(dim, kernel)
        plain = nn.Conv3d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        pairs = [(seconds(plain, x), seconds(ours, x)) for _ in range(args.repeats + 1)][1:]
        a, b = (1e3 * min(times) for times in zip(*pairs, strict=True))
        print(f"{batch:5} {dim:8} {frames:6} {side:4} {kernel:6} {a:11.1f} {b:9.1f} {a / b:7.1f}")


if __name__ == "__main__":
    main()
