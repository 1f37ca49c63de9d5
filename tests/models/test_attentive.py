"""The attentive head's operations against what they must be by hand."""

import pytest
import torch
from small_models import CLASSES, small_clip, small_model

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.attentive import AttentivePool, attend_to_tokens, grid_tokens
from slowfast_uniformer.weights.load import load_weights


def test_patches_are_averaged_over_a_grid():
    patches = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4, 1)
    cells = grid_tokens(patches, 2)
    assert cells.shape == (2, 3, 4, 1)
    assert cells[0, 0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(grid_tokens(patches, 9), patches.flatten(2, 3))


def test_a_query_without_weights_takes_the_mean_and_one_of_time_takes_a_frame():
    torch.manual_seed(0)
    tokens = torch.randn(2, 4, 3, 5)
    query, time = torch.zeros(2, 5), torch.zeros(2, 4)
    time[1, 2] = 50
    found = attend_to_tokens(tokens, query, time)
    torch.testing.assert_close(found[:, 0], tokens.mean(dim=(1, 2)))
    torch.testing.assert_close(found[:, 1], tokens[:, 2].mean(dim=1))


def test_it_is_softmax_attention_of_all_heads_at_once():
    torch.manual_seed(0)
    tokens, query, time = torch.randn(2, 4, 3, 5), torch.randn(6, 2, 5), torch.randn(6, 2, 4)
    found = attend_to_tokens(tokens, query, time)
    assert found.shape == (6, 2, 2, 5)
    for head in range(6):
        scores = query[head] @ tokens.flatten(1, 2).mT + time[head].repeat_interleave(3, dim=1)
        wanted = scores.softmax(-1) @ tokens.flatten(1, 2)
        torch.testing.assert_close(found[head], wanted)
        torch.testing.assert_close(attend_to_tokens(tokens, query[head], time[head]), wanted)


def test_moments_are_interpolated_to_the_frames_of_a_clip():
    tokens = torch.eye(2)[None, :, None]  # two frames, each its own channel
    found = attend_to_tokens(tokens, torch.zeros(1, 2), torch.tensor([[1.0, 3, 0, 2]]))
    torch.testing.assert_close(found[0, 0], torch.tensor([2.0, 1.0]).softmax(0))


def test_the_pool_puts_what_it_finds_behind_the_features():
    torch.manual_seed(0)
    pool, features, tokens = AttentivePool(5, 2, 4, 2), torch.randn(3, 5), torch.randn(3, 4, 6, 5)
    found = pool(features, tokens)
    assert found.shape == (3, 15) and torch.equal(found[:, :5], features)
    assert torch.equal(found[:, 5:], attend_to_tokens(tokens, pool.query, pool.time).flatten(1))


def test_a_model_with_an_attentive_head_reads_features_and_tokens():
    model = small_model("Uniformerv2 attentive").eval()
    clip = small_clip()
    with torch.no_grad():
        features, tokens = model.forward_tokens(clip, model.attentive.grid)
        wanted = model.attentive(features, tokens)
        torch.testing.assert_close(model.forward_features(clip), wanted)
        torch.testing.assert_close(model(clip), model.backbone.transformer.proj[2](wanted))
    assert model.num_features == 3 * 32 and model(clip).shape == (2, CLASSES)


def test_weights_of_models_with_another_head():
    linear, attentive = small_model("Uniformer"), small_model("Uniformer attentive")
    new = small_model("Uniformer attentive").attentive.query.clone()
    summary = load_weights(attentive, linear.state_dict(), init_head="new")
    assert set(summary.missing) == {"head.weight", "head.bias", "attentive.query", "attentive.time"}
    assert torch.equal(attentive.attentive.query, new)
    summary = load_weights(linear, attentive.state_dict(), init_head="new")
    assert set(summary.dropped) == set(summary.missing) | {"attentive.query", "attentive.time"}
    assert load_weights(attentive, small_model("Uniformer attentive").state_dict()).fraction == 1
    with pytest.raises(UserError, match="MODEL.HEAD attentive.*MODEL.INIT_HEAD new"):
        load_weights(linear, attentive.state_dict())
    with pytest.raises(UserError, match="MODEL.INIT_HEAD new"):
        load_weights(attentive, linear.state_dict())


def test_a_model_without_tokens_has_no_attentive_head():
    with pytest.raises(UserError, match="MODEL.HEAD attentive: the model _ConvNet has no forward_tokens"):
        small_model("PTVSlow", HEAD="attentive")
