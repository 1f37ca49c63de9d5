"""The exponential moving average (EMA) of a model's weights."""

import copy

import torch
from torch import Tensor, nn

from slowfast_uniformer.distributed import parallel


class MovingAverage:
    """A copy of a model that averages its parameters and buffers exponentially; its first update copies them.

    torch.optim.swa_utils.AveragedModel does the same, but the program must know whether an update takes place, and so
    would wait for the device. Here the device decides that.

    Args:
        net: the bare model, before it is sharded.
        decay: weight of the average in an update.

    Attributes:
        module: the averaged model.
        begun: whether it has been updated; a flag on the device.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.module, self.decay = copy.deepcopy(net), decay
        device = next(net.parameters()).device
        self.begun = torch.zeros((), dtype=torch.bool, device=device)

    @torch.no_grad()
    def update(self, net: nn.Module, updated: Tensor) -> None:
        """Average in the weights of `net` where `updated`, a flag on the device, is true; else change nothing."""
        old_weight = torch.where(self.begun, self.decay, 0.0)
        new_weight = torch.where(self.begun, 1 - self.decay, 1.0)
        averages = map(parallel.local_shard, [*self.module.parameters(), *self.module.buffers()])
        currents = map(parallel.local_shard, [*net.parameters(), *net.buffers()])
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                moved = average.lerp(current, new_weight.to(average.dtype))
            else:  # such as the number of batches that a batch norm has seen
                moved = (average * old_weight + current * new_weight).to(average.dtype)
            torch.where(updated, moved, average, out=average)
        self.begun |= updated
