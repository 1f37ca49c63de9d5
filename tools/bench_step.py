"""Time forward and backward passes of a config's model on random clips, and tell the process's peak memory.

python tools/bench_step.py --cfg configs/k400/uniformer_s.yaml --clips 2 NUM_GPUS 0 MODEL.INIT_FROM ""
"""

import argparse
import sys
import time

import torch

from slowfast_uniformer.config import load_config
from slowfast_uniformer.engine.meter import memory_mb
from slowfast_uniformer.engine.run import begin
from slowfast_uniformer.engine.train import training_step
from slowfast_uniformer.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark a training step.")
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        cfg = load_config(args.cfg, [*args.opts, "TRAIN.AUTO_RESUME", False])
        run = begin(cfg, None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    run.model.train()
    before = memory_mb(run.device)
    clips = torch.randn(
        args.clips, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE
    )
    labels = torch.randint(cfg.MODEL.NUM_CLASSES, (args.clips,))
    seconds = []
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        training_step(run, clips, labels)
        seconds.append(time.perf_counter() - start)
    print(f"{min(seconds[1:]):.2f} s a step, peak {memory_mb(run.device):.0f} MB, before {before:.0f} MB")


if __name__ == "__main__":
    main()
