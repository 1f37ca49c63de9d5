"""Activation checkpointing: the same results with less saved for the backward pass, for every model."""

import pytest
import torch
from small_models import SMALL, small_clip, small_model, training_step
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.ops.activation_checkpointing import checkpoint_counts

each_model = pytest.mark.parametrize("label", SMALL)


@each_model
@pytest.mark.parametrize("policy, autocast", [("full", False), ("full", True), ("selective", False)])
def test_checkpointing_every_block_changes_nothing(label, policy, autocast):
    saving_all = small_model(label)
    checkpointed = small_model(label, USE_CHECKPOINT=True, CHECKPOINT_NUM=[100] * 4, CHECKPOINT_POLICY=policy)
    for expected, found in zip(training_step(saving_all, autocast), training_step(checkpointed, autocast), strict=True):
        assert torch.equal(expected, found)
    for (name, expected), found in zip(saving_all.named_parameters(), checkpointed.parameters(), strict=True):
        assert expected.requires_grad == found.requires_grad
        assert not expected.requires_grad or torch.equal(expected.grad, found.grad), name
    for (name, expected), found in zip(saving_all.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(expected, found), name
    assert all(m.num_batches_tracked == 1 for m in checkpointed.modules() if isinstance(m, nn.BatchNorm3d))


@each_model
def test_the_first_blocks_of_each_stage_are_checkpointed(label):
    counts = [1, 0, 2, 1][: len(small_model(label).stages())]
    model = small_model(label, USE_CHECKPOINT=True, CHECKPOINT_NUM=counts)
    calls = [[0] * len(stage) for stage in model.stages()]
    for stage, blocks in enumerate(model.stages()):
        for index, block in enumerate(blocks):

            def count(*_, stage=stage, index=index):
                calls[stage][index] += 1

            for module in block:
                module.register_forward_pre_hook(count)
    training_step(model)
    assert calls == [
        [len(block) * (2 if i < n else 1) for i, block in enumerate(blocks)]
        for n, blocks in zip(counts, model.stages(), strict=True)
    ]


@each_model
def test_checkpointing_saves_less_for_the_backward_pass(label):
    def saved_bytes(model: nn.Module) -> int:
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.train()(small_clip())
        own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    model = small_model(label)
    without = saved_bytes(model)
    model.set_grad_checkpointing(100)
    assert saved_bytes(model) < without / 2


def test_checkpoint_counts_must_match_the_stages():
    assert checkpoint_counts(3, stages=2) == [3, 3]
    with pytest.raises(UserError, match="CHECKPOINT_NUM: .* must have an entry for each of 4 stages"):
        small_model("Uniformer", USE_CHECKPOINT=True, CHECKPOINT_NUM=[1, 2])
