"""Fast and reference implementations give the same results, model by model."""

import pytest
import torch
from small_models import SMALL, small_clip, small_model, training_step
from torch import nn

from slowfast_uniformer.ops import chunked, implementations


@pytest.fixture(name="small_chunks")
def fixture_small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_SIZE", 4)


@pytest.mark.parametrize("label", [label for label in SMALL if label.startswith("Uniformer")])
def test_reference_implementations_compute_the_same(label, small_chunks):
    """Golden figures hold the fast implementations; this holds the reference ones."""
    fast, reference = small_model(label), implementations.use_reference(small_model(label))
    for value in fast.parameters():
        if not value.any():  # it would hide what comes before it
            nn.init.normal_(value, std=0.1)
    reference.load_state_dict(fast.state_dict())
    for model in (fast, reference):
        for module in model.modules():
            if isinstance(module, nn.Dropout) or hasattr(module, "attn_drop"):
                module.p = module.attn_drop = 0.0  # drawn in another order
    with torch.no_grad():
        logits = [model.eval()(small_clip()) for model in (fast, reference)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
    for found, expected in zip(*map(training_step, (fast, reference)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    trained = [name for name, value in reference.named_parameters() if value.requires_grad]
    gradients = {name: reference.get_parameter(name).grad for name in trained}
    all_norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    for name, expected in gradients.items():  # some are zero but for rounding: biases before batch norms
        error = (fast.get_parameter(name).grad - expected).norm()
        assert error <= 1e-4 * expected.norm() + 1e-6 * all_norm, name


def test_the_reference_implementations_are_chosen_for_every_module():
    model = implementations.use_reference(small_model("Uniformerv2"))
    found = {module.impl for module in model.modules() if isinstance(module, implementations.HasImplementations)}
    assert found == {implementations.REFERENCE}
