"""Transforms against figures recorded from the releases (golden/sampling/spatial.*) and plain code."""

import json
import pickle
import random

import numpy as np
import pytest
import torch
from conftest import ROOT, config_with
from PIL import Image
from torch.nn.functional import interpolate

from slowfast_uniformer.data.augment import affine, augment, clip_augment, draw, image_augment
from slowfast_uniformer.data.transforms import (
    TrainTransform,
    ViewTransform,
    fill_patches,
    random_box,
    random_patches,
    short_side_size,
    to_display,
    view_corner,
)
from slowfast_uniformer.errors import UserError

FOLDER = ROOT / "tests/golden/sampling"
TABLES = json.loads((FOLDER / "spatial.json").read_text())
ARRAYS = np.load(FOLDER / "spatial.npz")
RELATIVE = {"DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0], "DATA.TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333]}
AUGMENT = {"AUG.ENABLE": True, "AUG.AA_TYPE": "rand-m7-n4-mstd0.5-inc1", "AUG.RE_PROB": 0.5}


def recorded(name):
    return torch.from_numpy(ARRAYS[name])


def as_recorded(**keys):
    """A config that leaves values as they are, and the recorded crop size."""
    unchanged = {"DATA__MEAN": [0.0] * 3, "DATA__STD": [1 / 255] * 3, "DATA__TRAIN_CROP_SIZE": 16}
    return config_with(**unchanged, **keys)


def seed(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def erase(clip, *settings):
    return fill_patches(clip, random_patches(clip.shape, *settings))


def augmented(frames, name, interpolation):
    """Frames after draws of an augmentation."""
    return augment(frames, clip_augment(name, interpolation)(*frames.shape[1:3]))


def states():
    return random.getstate(), np.random.get_state()[1:3], torch.get_rng_state().tolist()


def picture(frames=4, height=40, width=56):
    """Smooth frames that differ from each other."""
    coarse = np.random.default_rng(0).integers(0, 256, (frames, 5, 7, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in coarse])


@pytest.mark.parametrize("row", TABLES["uniform_crop"]["rows"])
def test_crop_offsets(row):
    height, width, size, spatial, top, left, _ = row
    assert view_corner(height, width, size, spatial) == (top, left)


@pytest.mark.parametrize("row", TABLES["short_side_scale_size"]["rows"])
def test_short_side_sizes(row):
    *given, expected = row
    assert list(short_side_size(*given)) == expected


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("tall", [False, True])
def test_scaling_is_that_of_the_releases(size, tall):
    frames = recorded("x_C3T2H20W27").permute(1, 2, 3, 0)
    expected = recorded(f"{'xT' if tall else 'x'}_scale{size}")
    view = ViewTransform(as_recorded(), size)
    first, last = (view(frames.transpose(1, 2) if tall else frames, spatial) for spatial in (0, 2))
    along = 2 if tall else 3
    assert torch.equal(first, expected.narrow(along, 0, size))
    assert torch.equal(last, expected.narrow(along, expected.shape[along] - size, size))


@pytest.mark.parametrize("spatial", [0, 1, 2])
@pytest.mark.parametrize("name", ["x", "xT"])
def test_views_of_the_releases(name, spatial):
    frames = recorded("x_C3T2H20W27").permute(1, 2, 3, 0)
    frames = frames.transpose(1, 2) if name == "xT" else frames
    expected = recorded(f"{name}_spatial_sampling_16_idx{spatial}")
    assert torch.equal(ViewTransform(as_recorded(), 16)(frames, spatial), expected)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("kind", ["jitter", "rrc"])
def test_training_crops_of_the_releases(kind, number):
    keys = {"DATA__TRAIN_JITTER_SCALES": [18, 24]}
    if kind == "rrc":
        keys |= {key.replace(".", "__"): value for key, value in RELATIVE.items()}
    transform = TrainTransform(as_recorded(**keys))
    seed(number)
    clip = transform(recorded("x_C3T2H20W27").permute(1, 2, 3, 0))
    assert torch.equal(clip, recorded(f"train_{kind}_seed{number}"))


def test_normalisation_of_the_releases():
    frames, expected = ARRAYS["normalize_in_u8_THWC"], recorded("normalize_out").permute(3, 0, 1, 2)
    view = ViewTransform(config_with(), 3)  # 3 x 4 frames, so two crops show all of them
    torch.testing.assert_close(view(frames, 0), expected[..., :3], rtol=0, atol=1e-6)
    torch.testing.assert_close(view(frames, 2), expected[..., 1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_erasing_of_the_releases(number):
    clip = recorded("x_C3T2H20W27").clone()
    seed(number)
    assert erase(clip, 1.0, "pixel") is clip
    assert torch.equal(clip.transpose(0, 1), recorded(f"random_erasing_pixel_seed{number}"))


def test_erased_boxes_are_the_same_in_every_frame():
    parts = {}
    for mode in ("pixel", "rand", "const"):
        seed(0)
        for count in (1, 3):
            clip = erase(torch.full((3, 4, 30, 40), 9.0), 1.0, mode, count)
            gone = clip != 9.0
            assert torch.equal(gone, gone[:1, :1].expand_as(gone))
            parts[mode, count] = clip[gone]
            assert 0 < gone.float().mean() < 0.4
    assert (parts["const", 1] == 0).all()
    assert len(parts["rand", 1].unique()) == 12  # a colour a frame
    assert len(parts["pixel", 1].unique()) > len(parts["pixel", 1]) / 2
    assert torch.equal(erase(torch.ones(3, 1, 9, 9), 0.0, "const"), torch.ones(3, 1, 9, 9))


def test_random_box_stays_inside_and_keeps_its_bounds():
    random.seed(0)
    boxes = np.array([random_box(120, 160, (0.1, 0.5), (0.5, 2.0)) for _ in range(500)])
    top, left, height, width = boxes.T
    assert top.min() >= 0 and left.min() >= 0 and (top + height).max() <= 120 and (left + width).max() <= 160
    part, ratio = height * width / (120 * 160), width / height
    assert 0.09 < part.min() < 0.15 and 0.45 < part.max() < 0.51
    assert 0.48 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.05


def test_random_box_that_cannot_fit_becomes_the_centre():
    assert random_box(10, 1000, (1.0, 1.0), (0.5, 2.0)) == (0, 490, 10, 20)
    assert random_box(1000, 10, (1.0, 1.0), (0.5, 2.0)) == (490, 0, 20, 10)


@pytest.mark.parametrize("name", ["rand-m7-n4-mstd0.5-inc1", "rand", "augmix-m5-w2", "original-mstd0.5", "3a"])
@pytest.mark.parametrize("interpolation", ["bilinear", "random"])
def test_augmentation_draws_once_for_all_frames(name, interpolation):
    frames = picture()
    timms = image_augment(name, interpolation)
    changed = False
    for number in range(6):
        expected = []
        for frame in frames:
            seed(number)
            expected.append(np.asarray(timms(Image.fromarray(frame))))
        after = states()
        seed(number)
        result = augmented(frames, name, interpolation)
        assert str(states()) == str(after)
        assert np.abs(result - np.stack(expected).astype(int)).max() <= 8  # roundings that later steps amplify
        assert (result != expected).mean() < 0.01
        changed |= not np.array_equal(expected, frames)
    assert changed


def test_operations_that_move_nothing_are_pillows():
    names = ("rand-m7-mstd0.5-inc1", "bicubic")
    operations = zip(clip_augment(*names).args[0].ops, image_augment(*names).ops, strict=True)
    noise = np.random.default_rng(0).integers(0, 256, (3, 20, 31, 3), dtype=np.uint8)
    pairs = [pair for pair in operations if not pair[0].name.startswith(("Rotate", "Shear", "Translate"))]
    assert len(pairs) == 10
    for frames in (picture(), noise, noise[:, :2], noise[:, :, :1]):
        for whole, single in pairs:
            whole.prob = single.prob = 1.0
            for number in range(5):
                seed(number)
                result = augment(frames, draw(whole, *frames.shape[1:3]))
                for frame, got in zip(frames, result, strict=True):
                    seed(number)
                    assert np.array_equal(got, single(Image.fromarray(frame))), whole.name


@pytest.mark.parametrize("filter", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 0, 1, 0),
        (1, 0.2137, 0, 0, 1, 0),
        (1, 0, -7.4131, 0, 1, 0),
        (1, 0, 0, -0.3037, 1, 90),
        (0.9131, 0.4077, -3, -0.4077, 0.9131, 8),
        (1, 0, 1000, 0, 1, 0),
    ],
)
def test_affine_is_pillows(matrix, filter):
    frames, fill = picture(), (128, 5, 77)
    expected = [
        np.asarray(Image.fromarray(x).transform(x.shape[1::-1], Image.AFFINE, matrix, filter, fillcolor=fill))
        for x in frames
    ]
    gap = np.abs(affine(frames, matrix, filter, fill) - np.stack(expected).astype(int))
    assert gap.max() <= 1 and (gap > 0).mean() < 5e-3


def reference(frames, number, size, aa_type):
    """The releases' order: augment, normalise, crop, scale, flip, erase."""
    seed(number)
    frames = torch.from_numpy(augmented(frames, aa_type, "bicubic"))
    clip = ((frames.float() / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)
    top, left, height, width = random_box(*clip.shape[2:], (0.08, 1.0), (0.75, 1.3333))
    clip = clip[:, :, top : top + height, left : left + width]
    clip = interpolate(clip, (size, size), mode="bilinear", align_corners=False)
    clip = clip.flip(-1) if np.random.uniform() < 0.5 else clip
    return erase(clip.contiguous(), 0.5, "pixel")


def test_whole_training_transform_equals_the_plain_one():
    keys = {key.replace(".", "__"): value for key, value in (RELATIVE | AUGMENT).items()}
    transform = pickle.loads(pickle.dumps(TrainTransform(config_with(DATA__TRAIN_CROP_SIZE=32, **keys))))
    for number in range(10):
        frames = picture()
        seed(number)
        clip = transform(frames)
        assert clip.shape == (3, 4, 32, 32) and clip.dtype == torch.float32 and clip.is_contiguous()
        expected = reference(frames, number, 32, AUGMENT["AUG.AA_TYPE"])
        torch.testing.assert_close(clip, expected, rtol=0, atol=2e-6)
        assert np.array_equal(frames, picture())


def test_training_without_augmentation_only_crops_and_flips():
    frames = np.tile(np.arange(40, 200, 2, dtype=np.uint8)[None, None, :, None], (2, 80, 1, 3))  # rises to the right
    options = {"AUG__ENABLE": False, "AUG__AA_TYPE": "rand-m9", "AUG__RE_PROB": 1.0}
    sizes = {"DATA__TRAIN_CROP_SIZE": 24, "DATA__TRAIN_JITTER_SCALES": [30, 60]}
    seed(0)
    transform = TrainTransform(config_with(**options, **sizes))
    rises = [torch.sign(clip.diff(dim=-1)).unique().tolist() for clip in (transform(frames) for _ in range(60))]
    assert all(signs in ([1.0], [-1.0]) for signs in rises)
    assert 15 < sum(signs == [-1.0] for signs in rises) < 45
    straight = TrainTransform(config_with(**options, **sizes, DATA__RANDOM_FLIP=False))
    assert all((straight(frames).diff(dim=-1) > 0).all() for _ in range(20))


def test_jitter_below_the_crop_is_refused():
    with pytest.raises(UserError, match="DATA.TRAIN_JITTER_SCALES.*DATA.TRAIN_CROP_SIZE"):
        TrainTransform(config_with(DATA__TRAIN_JITTER_SCALES=[200, 320]))


@pytest.mark.parametrize("name", ["rnad-m7", "rand-w0", "augmix-q3"])
def test_unknown_augmentation_names_the_key(name):
    with pytest.raises(UserError, match=f"AUG.AA_TYPE: '{name}'"):
        TrainTransform(config_with(AUG__ENABLE=True, AUG__AA_TYPE=name))


@pytest.mark.parametrize("shape", [(256, 340), (340, 256), (48, 48), (30, 100)])
def test_views_equal_normalising_then_scaling(shape):
    frames = picture(2, *shape)
    clip = torch.from_numpy((frames / 255 - 0.45) / 0.225).float().permute(3, 0, 1, 2)
    whole = interpolate(clip, short_side_size(*shape, 64), mode="bilinear", align_corners=False)
    view = ViewTransform(config_with(), 64)
    before = states()
    for spatial in range(3):
        top, left = view_corner(*whole.shape[2:], 64, spatial)
        expected = whole[..., top : top + 64, left : left + 64]
        torch.testing.assert_close(view(frames, spatial), expected, rtol=0, atol=2e-6)
        assert torch.equal(view(frames, spatial), view(torch.from_numpy(frames), spatial))
    assert torch.equal(view(frames), view(frames, 1))
    assert str(states()) == str(before)


@pytest.mark.parametrize("reverse", [False, True])
def test_display_undoes_normalisation(reverse):
    cfg = config_with(DATA__MEAN=[0.4, 0.5, 0.6], DATA__STD=[0.2, 0.3, 0.4], DATA__REVERSE_INPUT_CHANNEL=reverse)
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    clip = ViewTransform(cfg, 8)(frames)
    assert np.array_equal(to_display(clip, cfg).numpy(), frames)
    assert (to_display(clip + 100, cfg) == 255).all() and (to_display(clip - 100, cfg) == 0).all()
    red = clip[2 if reverse else 0]
    torch.testing.assert_close(red, torch.from_numpy((frames[..., 0] / 255 - 0.4) / 0.2).float())
    cfg.merge_from_list(["DATA.TRAIN_CROP_SIZE", 8, "DATA.TRAIN_JITTER_SCALES", [8, 8], "DATA.RANDOM_FLIP", False])
    assert torch.equal(TrainTransform(cfg)(frames), clip)
