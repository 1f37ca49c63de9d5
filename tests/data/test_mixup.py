"""Mixup and cutmix against the batches recorded from the releases (tests/golden/sampling/spatial.npz)."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from mixup_settings import mixup_of

from slowfast_uniformer.data.mixup import smooth_one_hot

GOLDEN = np.load(ROOT / "tests/golden/sampling/spatial.npz")
SEEDS = range(6)


def batch(size=3):
    return torch.randn(size, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(size)


@pytest.mark.parametrize("seed", SEEDS)
def test_batches_of_the_releases(seed):
    clips = torch.from_numpy(GOLDEN["mixup_in"])
    before = clips.clone()
    np.random.seed(seed)
    mixed, targets = mixup_of()(clips, torch.tensor([0, 3, 1, 2]))
    assert torch.equal(mixed, torch.from_numpy(GOLDEN[f"mixup_seed{seed}_x"]))
    torch.testing.assert_close(targets, torch.from_numpy(GOLDEN[f"mixup_seed{seed}_y"]), rtol=1e-6, atol=1e-7)
    assert torch.equal(clips, before)


def test_recorded_batches_hold_both_kinds():
    clips = GOLDEN["mixup_in"]
    cut = {bool((GOLDEN[f"mixup_seed{seed}_x"] == clips).any()) for seed in SEEDS}
    assert cut == {True, False}  # only cutmix leaves pixels as they are


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_odd_batch_pairs_first_with_last_and_targets_follow_the_pixels(alphas):
    clips = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 3, 2, 16, 16)
    np.random.seed(0)
    for _ in range(20):
        mixed, targets = mixup_of(*alphas, label_smoothing=0.0, num_classes=3)(clips, torch.arange(3))
        assert torch.equal(mixed[1], clips[1]) and torch.equal(targets[1], torch.tensor([0.0, 1.0, 0.0]))
        # a clip of constant value i is 2 - i in its partner's part, so means and targets tell the same share
        torch.testing.assert_close(mixed[0].mean(), 2 * targets[0, 2])
        torch.testing.assert_close(mixed[2].mean(), 2 * targets[2, 2])
        assert not torch.equal(mixed[0], clips[0]) or targets[0, 0] == 1


def test_cutmix_cuts_the_same_box_out_of_every_frame():
    clips, labels = batch()
    np.random.seed(0)
    sizes = set()
    for _ in range(20):
        mixed, _ = mixup_of(0.0)(clips, labels)
        changed = (mixed != clips)[0]
        assert torch.equal(changed, changed[:1, :1].expand_as(changed))
        sizes.add(int(changed[0, 0].sum()))
    assert len(sizes) > 5


def test_a_clip_alone_keeps_itself():
    clips, labels = batch(1)
    for seed in SEEDS:
        np.random.seed(seed)
        mixed, targets = mixup_of()(clips, labels)
        torch.testing.assert_close(mixed, clips)
        torch.testing.assert_close(targets, smooth_one_hot(labels, 5, 0.1))


@pytest.mark.parametrize("options", [{"prob": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}])
def test_no_mixing_still_smooths(options):
    clips, labels = batch()
    mixed, targets = mixup_of(**options)(clips, labels)
    assert torch.equal(mixed, clips)
    torch.testing.assert_close(targets, smooth_one_hot(labels, 5, 0.1))


def test_probabilities():
    clips, labels = batch(2)
    clips = clips[..., :1, :1]  # a box of one pixel cannot be cut, so cutmix leaves these clips alone
    np.random.seed(0)
    changed = [not torch.equal(mixup_of(prob=0.5, switch_prob=0.3)(clips, labels)[0], clips) for _ in range(400)]
    assert 0.28 < np.mean(changed) < 0.42  # 0.5 * 0.7


def test_smooth_one_hot():
    expected = torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]])
    torch.testing.assert_close(smooth_one_hot(torch.tensor([2, 0]), 4, 0.2), expected)
    assert torch.equal(smooth_one_hot(torch.tensor([1]), 3), torch.tensor([[0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_clips_of_any_device_are_mixed_there_with_the_same_draws(alphas):
    """The meta device stands for an accelerator; labels still on the CPU are moved to the clips."""
    clips, labels = batch()
    states = []
    for device in ("cpu", "meta"):
        np.random.seed(3)
        mixed, targets = mixup_of(*alphas)(clips.to(device), labels)
        assert mixed.device.type == targets.device.type == device
        assert mixed.shape == clips.shape and targets.shape == (3, 5)
        states.append(np.random.get_state()[1].tolist())
    assert states[0] == states[1]
