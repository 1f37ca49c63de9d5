"""Clips made on a device against clips made on the CPU: one plan, two executors."""

import numpy as np
import pytest
import torch
from conftest import config_with
from PIL import Image, ImageFilter

from slowfast_uniformer import seeding
from slowfast_uniformer.data.augment import Operation, augment, clip_augment, draw
from slowfast_uniformer.data.device_transforms import needed_regions
from slowfast_uniformer.data.raw_clips import pack
from slowfast_uniformer.data.transforms import ClipPlan, Crop, Patch, TrainTransform, ViewTransform

POLICIES = {
    "rand": "rand-m{}-n1-p1.0",
    "increasing": "rand-m{}-n1-p1.0-inc1",
    "3a": "rand-m{}-n1-p1.0-t3a",
    "original": "original",
    "v0": "v0",
    "v0r": "v0r",
    "originalr": "originalr",
    "3a policy": "3a",
}


IDENTITY = Operation("Affine", ((1, 0, 0, 0, 1, 0), Image.Resampling.NEAREST, (0, 0, 0)))


def frames(count=2, height=96, width=128):
    """Like real frames: gradients, edges, a dark part, texture and noise, different in each frame."""
    draws = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width].astype(float)
    clip = []
    for n in range(count):
        picture = np.stack([40 + x * 0.9, 60 + y * 1.2, 90 + 50 * np.sin((x + 3 * n) / 17 + y / 29)], -1)
        picture[20 + n : 60, 30:80] = (200, 150, 90)
        picture[(x - 90 - n) ** 2 + (y - 60) ** 2 < 400] = (30, 60, 160)
        picture[70:, :40] += 25 * np.sin(x[70:, :40] * 1.3)[..., None]
        clip.append((picture + draws.normal(0, 5, picture.shape)).clip(8, 243))
    return np.stack(clip).astype(np.uint8)


def identity(size):
    """A view that leaves frames of a size as they are, values 0 to 255."""
    maker = ViewTransform(config_with(DATA__MEAN=[0.0] * 3, DATA__STD=[1 / 255] * 3), min(size)).maker
    return maker, Crop((0, 0, *size), size)


def on_device(given, operations):
    """Operations by way of `pack`, on the device's executor: uint8 frames."""
    maker, crop = identity(given.shape[1:3])
    (clip,) = pack(given, [ClipPlan(tuple(operations), crop, crop.size)], maker).make("cpu")
    return clip.permute(1, 2, 3, 0).round().to(torch.uint8).numpy()


def assert_close(found, expected):
    gap = np.abs(found.astype(int) - expected)
    assert gap.mean() <= 0.6 and (gap <= 3).mean() >= 0.999, (gap.mean(), (gap <= 3).mean(), gap.max())


def operations_of(policy, magnitude, interpolation):
    """Each operation of a policy once, with both signs if it has one."""
    timms = clip_augment(POLICIES[policy].format(magnitude), interpolation).args[0]
    found = timms.ops if hasattr(timms, "ops") else [operation for chain in timms.policy for operation in chain]
    for operation in {(o.name, o.magnitude): o for o in found}.values():
        operation.prob = 1.0
        for seed in (0, 1, 2):
            with seeding.seeded(seed):
                yield from draw(operation, 96, 128)


@pytest.mark.parametrize("magnitudes", [(0, 7, 10), pytest.param(range(11), marks=pytest.mark.slow)])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("policy", POLICIES)
def test_each_operation_is_that_of_the_cpu(policy, interpolation, magnitudes):
    """Where a table is found for an operation, also without one: after an operation that leaves frames as they are.

    On a CPU all are identical. A GPU may fuse a multiplication with an addition, which rounds differently: that shows
    most in bicubic rotations, shears and translations, whose sums have the most terms.
    """
    given, seen = frames(), {}
    for magnitude in magnitudes if "{}" in POLICIES[policy] else (0,):
        for operation in operations_of(policy, magnitude, interpolation):
            if interpolation == "bilinear" or operation.name == "Affine":  # others are the same with each
                seen[repr(operation)] = operation
    assert len(seen) > 2 or interpolation != "bilinear"  # some have no geometric operations
    for operation in seen.values():
        expected = augment(given, [operation])
        assert_close(on_device(given, [operation]), expected)
        if operation.name != "Affine":
            assert_close(on_device(given, [IDENTITY, operation]), expected)


AFTER_OTHERS = {
    "AutoContrast": (),
    "Equalize": (),
    "Contrast": (1.7,),
    "Color": (0.3,),
    "Desaturate": (0.8,),
    "Sharpness": (1.8,),
    "GaussianBlur": (1.6,),
    "Solarize": (100,),
    "Affine": ((1, 0.2, 0, 0, 1, 0), Image.Resampling.NEAREST, (128, 128, 128)),
}


@pytest.mark.parametrize("name", AFTER_OTHERS)
def test_operations_of_a_part_of_a_moved_frame(name):
    """After a geometric operation the worker cannot prepare tables, and only the pixels that a crop needs are there."""
    given, (maker, _) = frames(), identity((96, 128))
    first = Operation("Affine", ((0.98, 0.17, -9.0, -0.17, 0.98, 12.0), Image.Resampling.NEAREST, (128, 128, 128)))
    for box in ((0, 0, 96, 128), (31, 17, 40, 50), (60, 90, 36, 38)):
        plan = ClipPlan((first, Operation(name, AFTER_OTHERS[name])), Crop(box, box[2:]), box[2:])
        (clip,) = pack(given, [plan], maker).make("cpu")
        assert_close(clip.round().numpy(), maker.execute(given, plan).round().numpy())


@pytest.mark.parametrize("name", AFTER_OTHERS)
def test_nothing_is_read_from_the_device_or_copied_there(name):
    """The meta device has no values, so a read fails, and so does an operation with a tensor of the CPU."""
    given, (maker, crop) = frames(), identity((96, 128))
    first = Operation("Affine", ((0.98, 0.17, -9.0, -0.17, 0.98, 12.0), Image.Resampling.BICUBIC, (128, 128, 128)))
    patches = (Patch(3, 3, 4, 4, torch.randn(2, 3, 4, 4)), Patch(9, 9, 4, 4, None))
    operations = (Operation("Invert"), Operation("Equalize"), first, Operation(name, AFTER_OTHERS[name]))
    plan = ClipPlan(operations, crop, crop.size, patches, flip=True)
    assert pack(given, [plan], maker).make("meta").device.type == "meta"


def test_blur_is_pillows():
    noise = np.random.default_rng(0).integers(0, 256, (2, 20, 31, 3), dtype=np.uint8)
    for sigma in (0.1, 0.5, 1.0, 1.3, 2.0, 3.7):
        expected = [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma))) for frame in noise]
        assert np.abs(on_device(noise, [Operation("GaussianBlur", (sigma,))]).astype(int) - expected).max() <= 1


def test_turns_of_right_angles_are_pillows():
    square = frames()[:, :, :96]
    for magnitude in (90, 180):
        timms = clip_augment(f"rand-m{magnitude // 3}-mmax{magnitude // 3}", "bilinear").args[0]
        rotate = next(operation for operation in timms.ops if operation.name == "Rotate")
        rotate.prob = 1.0
        with seeding.seeded(0):
            operations = draw(rotate, 96, 96)
        turned = [np.rot90(square, turns, (1, 2)) for turns in ((1, 3) if magnitude == 90 else (2,))]
        for found in (augment(square, operations), on_device(square, operations)):
            assert any(np.array_equal(found, expected) for expected in turned)


TRAINING = {
    "boxes": {"DATA__TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0], "DATA__TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333]},
    "jitter": {"DATA__TRAIN_JITTER_SCALES": [80, 120], "DATA__REVERSE_INPUT_CHANNEL": True, "AUG__RE_MODE": "rand"},
    "augmix": {"DATA__TRAIN_JITTER_SCALES": [80, 120], "AUG__AA_TYPE": "augmix-m5-w2", "AUG__RE_MODE": "const"},
    "plain": {"DATA__TRAIN_JITTER_SCALES": [80, 120], "AUG__AA_TYPE": ""},
}


@pytest.mark.parametrize("kind", TRAINING)
def test_training_clips_are_those_of_the_cpu(kind):
    keys = {"AUG__AA_TYPE": "rand-m7-n4-mstd0.5-inc1", "AUG__RE_PROB": 0.5, "AUG__RE_COUNT": 2} | TRAINING[kind]
    transform = TrainTransform(config_with(AUG__ENABLE=True, DATA__TRAIN_CROP_SIZE=64, **keys))
    given, erased = frames(), 0
    for number in range(12):
        with seeding.seeded(number):
            plans = [transform.plan(*given.shape[:3]) for _ in range(2)]
        plans[1] = plans[1]._replace(flip=True)
        expected = torch.stack([transform.maker.execute(given, plan) for plan in plans])
        raw = pack(given, plans, transform.maker)
        found = raw.make("cpu")
        assert raw.buffer.nbytes < expected.nbytes and found.shape == expected.shape
        assert_close(found.numpy() * 0.225 * 255, expected.numpy() * 0.225 * 255)
        noise = [torch.zeros_like(clip) for clip in expected]
        for plan, clip, made, mask in zip(plans, expected, found, noise, strict=True):
            for patch in plan.patches:
                mask[:, :, patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] = 1
            mask = mask.flip(-1) if plan.flip else mask
            assert torch.equal(clip[mask > 0], made[mask > 0]), "erased parts are identical"
            erased += int(mask.sum())
    assert erased


def test_only_the_pixels_that_a_crop_needs_are_read():
    crop = Crop((10, 20, 30, 40), (32, 32))
    (region,) = needed_regions(ClipPlan((), crop, (32, 32)), (96, 128))
    assert region == (10, 20, 40, 60)
    wide = ClipPlan((Operation("Equalize"),), crop, (32, 32))
    assert needed_regions(wide, (96, 128)) == [(0, 0, 96, 128), (10, 20, 40, 60)]
    away = Operation("Affine", ((1, 0, 1000, 0, 1, 0), Image.Resampling.BICUBIC, (1, 2, 3)))
    maker, whole = identity((96, 128))
    plan = ClipPlan((away,), whole, (96, 128))
    (clip,) = pack(frames(), [plan], maker).make("cpu")
    assert torch.equal(clip, maker.execute(frames(), plan))
