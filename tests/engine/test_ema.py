"""The moving average is PyTorch's, bit for bit, where updates take place, and unchanged where not."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slowfast_uniformer.engine.ema import MovingAverage


class Net(nn.Sequential):
    """Parameters of several sizes, a memory format, float and integer buffers."""

    def __init__(self):
        super().__init__(nn.Conv3d(3, 5, (1, 3, 3)), nn.BatchNorm3d(5), nn.Linear(37, 11))
        self[0].to(memory_format=torch.channels_last_3d)

    @torch.no_grad()
    def change(self, seed: int) -> None:
        torch.manual_seed(seed)
        for value in self.parameters():
            value.add_(torch.randn_like(value))
        self[1].running_mean += seed
        self[1].num_batches_tracked += 7


@pytest.mark.parametrize("decay", [0.9999, 0.9, 0.3, 0.0])
def test_updates(decay):
    net = Net()
    ours = MovingAverage(net, decay)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for seed, updated in enumerate([False, True, True, False, True]):
        net.change(seed)
        before = [value.clone() for value in ours.module.state_dict().values()]
        with torch.no_grad():
            net[0].bias.fill_(net[0].bias[0] if updated else torch.nan)
        ours.update(net, torch.tensor(updated))
        if updated:
            theirs.update_parameters(net)
        else:
            assert all(map(torch.equal, before, ours.module.state_dict().values()))
            net[0].bias.data.zero_()
        assert bool(ours.begun) == (seed > 0)
        if ours.begun:
            values = zip(ours.module.state_dict().values(), theirs.module.state_dict().values(), strict=True)
            assert all(torch.equal(one, other) and one.stride() == other.stride() for one, other in values)
