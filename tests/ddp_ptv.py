"""Trains every PyTorchVideo model for a step on a process group, then scores clips with it.

Run under torchrun by tests/models/test_pytorchvideo.py: python tests/ddp_ptv.py OUT. Rank 0 saves of each model
whether the update took place, and the logits.
"""

import sys

import torch
from small_models import CLASSES, SMALL

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import launch, topology
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step


def step_and_score(label: str) -> tuple[bool, torch.Tensor]:
    name, sections = SMALL[label]
    options = {
        "NUM_GPUS": 0,
        "MODEL.MODEL_NAME": name,
        "MODEL.NUM_CLASSES": CLASSES,
        "DATA.NUM_FRAMES": 4,
        "DATA.TEST_CROP_SIZE": 224,
        "MODEL.ARGS": sections["MODEL"]["ARGS"],
        "MODEL.USE_CHECKPOINT": True,
        "MODEL.CHECKPOINT_NUM": [1, 1, 1, 1],
    }
    run = start_run(load_config(None, [item for pair in options.items() for item in pair]), None)
    generator = torch.Generator().manual_seed(topology.rank())
    clips = torch.randn(2, 3, 4, 32, 48, generator=generator)
    run.model.train()
    step = training_step(run, clips, torch.tensor([0, 1]))
    with torch.inference_mode():
        return step.updated, run.net.eval()(clips)


def main(_cfg) -> None:
    found = {label: step_and_score(label) for label in SMALL if label.startswith("PTV")}
    if topology.is_main():
        torch.save(found, sys.argv[1])


if __name__ == "__main__":
    launch.launch(main, load_config(None, ["NUM_GPUS", 0]))
