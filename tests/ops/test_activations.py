"""Activation functions are their formulas."""

import pytest
import torch
import torch.nn.functional as F
from layer_checks import check_layer

from slowfast_uniformer.ops.activations import GELU, QuickGELU


def test_quick_gelu_is_its_formula():
    x = torch.randn(50, requires_grad=True)
    check_layer(QuickGELU(), x, lambda x: x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_gelu_of_volumes_keeps_their_memory_format(memory_format):
    x = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=memory_format).requires_grad_()
    check_layer(GELU(), x, F.gelu)
    assert GELU()(x.detach().contiguous(memory_format=torch.channels_last_3d)).is_contiguous(
        memory_format=torch.channels_last_3d
    )
