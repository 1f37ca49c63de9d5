"""Random draws against the distributions that the methods define, with fixed seeds.

Each sample is held against its distribution function: the largest gap of the two stays below 1.63 / sqrt(n)
in 99 of 100 samples (Kolmogorov-Smirnov), and with a fixed seed the test always says the same.
"""

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mixup_settings import mixup_of
from PIL import Image

from slowfast_uniformer.data.augment import image_augment
from slowfast_uniformer.data.transforms import random_box, random_patches


@pytest.fixture(autouse=True)
def seeds():
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)


def assert_follows(sample: list[float], cdf: Callable[[np.ndarray], np.ndarray]) -> None:
    values = np.sort(np.asarray(sample, float))
    steps = np.arange(len(values) + 1) / len(values)
    gap = max(np.abs(cdf(values) - steps[1:]).max(), np.abs(cdf(values) - steps[:-1]).max())
    assert gap < 1.63 / np.sqrt(len(values)), gap


def uniform(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.clip((x - low) / (high - low), 0, 1)


def test_areas_and_aspect_ratios_of_crops():
    """Boxes of up to half a large square always fit, so that none is drawn again."""
    side, part, ratio = 4000, (0.1, 0.5), (3 / 4, 4 / 3)
    boxes = [random_box(side, side, part, ratio) for _ in range(4000)]
    assert_follows([h * w / side**2 for *_, h, w in boxes], uniform(*part))
    assert_follows([np.log(w / h) for *_, h, w in boxes], uniform(*np.log(ratio)))
    assert_follows([(top + 0.5) / (side - h + 1) for top, _, h, _ in boxes], uniform(0, 1))
    assert_follows([(left + 0.5) / (side - w + 1) for _, left, _, w in boxes], uniform(0, 1))


def boxes_of_erasing(count: int) -> list[tuple[float, float]]:
    """Part of the area, and height over width, of what is erased of large pictures."""
    found = []
    for _ in range(count):
        (patch,) = random_patches((1, 1, 300, 300), 1.0, "const")
        found.append((patch.height * patch.width / 90000, patch.height / patch.width))
    return found


def test_areas_and_aspect_ratios_of_erasing():
    """Uniform in area (2 to 33 %) and in the logarithm of the ratio (0.3 to 3.3), given that a box fits."""
    boxes = boxes_of_erasing(3000)
    draw = np.random.default_rng(1)
    areas = draw.uniform(0.02, 1 / 3, 200000)
    ratios = np.exp(draw.uniform(np.log(0.3), np.log(1 / 0.3), 200000))
    fits = np.maximum(np.sqrt(areas * ratios), np.sqrt(areas / ratios)) < 1
    assert fits.mean() > 0.97  # so that what is drawn again hardly matters
    for sample, wanted in zip(zip(*boxes, strict=True), (areas[fits], ratios[fits]), strict=True):
        known = np.sort(wanted)
        assert_follows(list(sample), lambda x, known=known: np.searchsorted(known, x) / len(known))


def test_erasing_happens_with_its_probability():
    erased = sum(bool(random_patches((1, 1, 8, 8), 0.25, "const")) for _ in range(4000))
    assert erased / 4000 == pytest.approx(0.25, abs=0.02)


def test_operations_and_magnitudes_of_rand_augment():
    """rand-m7-n4-mstd0.5: 4 of 15 operations with repeats, each applied with probability 0.5, at magnitudes
    drawn from a normal distribution of mean 7 and standard deviation 0.5."""
    augment = image_augment("rand-m7-n4-mstd0.5-inc1", "bicubic")
    applied, magnitudes, numbers = Counter(), [], []
    for number, operation in enumerate(augment.ops):

        def apply(image, *args, number=number, **kwargs):
            applied[number] += 1
            numbers[-1] += 1
            return image

        def level(magnitude, hparams):
            magnitudes.append(magnitude)
            return ()

        operation.aug_fn, operation.level_fn = apply, level
    image, images = Image.new("RGB", (4, 4)), 4000
    for _ in range(images):
        numbers.append(0)
        augment(image)
    assert len(augment.ops) == 15
    per_image = np.bincount(numbers, minlength=5) / images
    np.testing.assert_allclose(per_image, np.array([1, 4, 6, 4, 1]) / 16, atol=0.025)
    expected = images * 4 * 0.5 / 15
    chi2 = sum((applied[number] - expected) ** 2 / expected for number in range(15))
    assert chi2 < 29.1  # 99 % of chi-squared with 14 degrees of freedom
    normal = np.vectorize(lambda x: 0.5 * (1 + torch.erf(torch.tensor((x - 7) / (0.5 * 2**0.5))).item()))
    assert_follows(magnitudes, normal)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_the_weight_of_mixup(alpha):
    """Beta(alpha, alpha) of the first clip, which the target of a two-class batch shows."""
    mixup = mixup_of(alpha, 0.0, label_smoothing=0.0, num_classes=2)
    clips, labels = torch.zeros(2, 1, 1, 1, 1), torch.tensor([0, 1])
    weights = [mixup(clips, labels)[1][0, 0].item() for _ in range(3000)]
    known = np.sort(np.random.default_rng(2).beta(alpha, alpha, 300000))
    assert_follows(weights, lambda x: np.searchsorted(known, x) / len(known))


def test_the_cut_of_cutmix():
    """Beta(1, 1) is uniform: of what is cut, before the picture's border takes its part."""
    mixup = mixup_of(0.0, 1.0, label_smoothing=0.0, num_classes=2)
    assert_follows([mixup._draw()[1] for _ in range(3000)], uniform(0, 1))
    both = mixup_of(0.8, 1.0, 0.6, 0.3, 0.0, 2)
    kinds = Counter((cut, keep < 1) for cut, keep in (both._draw() for _ in range(6000)))
    assert kinds[True, True] / 6000 == pytest.approx(0.6 * 0.3, abs=0.02)
    assert kinds[False, True] / 6000 == pytest.approx(0.6 * 0.7, abs=0.02)
