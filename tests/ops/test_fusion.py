"""Fused batch norms and layer scale."""

import pytest
import torch
from small_models import SMALL, small_clip, small_model
from torch import nn


@pytest.mark.parametrize("label", [label for label in SMALL if label.startswith("Uniformer")])
def test_fused_models_compute_the_same_without_batch_norms(label):
    model = small_model(label)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "num_batches" not in name:
                value.copy_(torch.rand(value.shape) + 0.5 if "var" in name else torch.randn(value.shape) / 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused, clip = model.fuse(), small_clip()
    with torch.inference_mode():
        torch.testing.assert_close(fused(clip), model.eval()(clip), rtol=1e-4, atol=1e-5)
    left = [name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm3d)]
    assert left == (["norm"] if label == "Uniformer attentive" else []), "that head reads what the last one gives"
    assert not any("gamma" in name or ".ls_" in name for name in fused.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
