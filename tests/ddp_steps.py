"""Takes training steps with every process holding its share of each batch, and saves what became of the model
and of the losses.

Run alone or under torchrun by test_distributed.py: python tests/ddp_steps.py OUT STEPS KEY VALUE ...
STEPS like 10+10 saves after each part, and leaves what is saved then in OUTPUT_DIR_after_10 and so on, too.
"""

import shutil
import sys

import torch

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.distributed import collectives, launch, parallel, topology
from slowfast_uniformer.engine.probe import fit_classifiers
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step


def steps(cfg):
    run = start_run(cfg, None, lambda net: fit_classifiers(net, build_loader(cfg, "train"), cfg))
    run.model.eval()  # batch norms would see half the batch each
    rank, world, losses = topology.rank(), topology.world_size(), []
    for count in map(int, sys.argv[2].split("+")):
        for seed in range(run.step, run.step + count):
            generator = torch.Generator().manual_seed(seed)
            clips = torch.randn(8, 3, 4, 32, 32, generator=generator)
            labels = torch.randint(8, (8,), generator=generator)
            step = training_step(run, clips[rank::world], labels[rank::world])
            losses.append(collectives.all_reduce_mean(step.loss).item())
        run.save()
        run.saver.finish(must=True)
        collectives.barrier()
        if topology.is_main() and "+" in sys.argv[2]:
            shutil.copytree(cfg.OUTPUT_DIR, f"{cfg.OUTPUT_DIR}_after_{run.step}")
    state = {name: parallel.full_tensor(value) for name, value in run.net.state_dict().items()}
    if topology.is_main():
        torch.save({"losses": losses, "state": state}, sys.argv[1])
    collectives.barrier()


if __name__ == "__main__":
    launch.launch(steps, load_config(None, sys.argv[3:]))
