"""Calibration error and temperature against references written otherwise."""

import math

import numpy as np
import pytest
import torch

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.calibration import (
    COLDEST,
    calibration_error,
    fit_temperature,
    loss,
    temperature_of,
    with_temperature,
)
from slowfast_uniformer.errors import UserError


def overconfident(temperature: float, videos: int = 4000, classes: int = 6, seed: int = 0):
    """Logits (V, K) whose probabilities are right at this temperature, and labels drawn from these."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(videos, classes, dtype=torch.float64, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


def reference_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return 100 * error


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_calibration_error_is_that_of_the_paper(temperature):
    logits, labels = overconfident(temperature)
    probabilities = logits.softmax(1)
    ours = calibration_error(probabilities, labels)
    assert ours == pytest.approx(reference_error(probabilities.numpy(), labels.numpy()), abs=0.01)
    assert (ours < 2) == (temperature == 1)
    right = calibration_error(with_temperature(probabilities, temperature, False), labels)
    assert right < 2, "at the right temperature little is left, of chance"


def test_the_calibration_error_of_several_labels_is_over_all_classes():
    probabilities = torch.tensor([[0.9, 0.9], [0.9, 0.1]])
    labels = torch.tensor([[1, 1], [0, 0]])
    assert calibration_error(probabilities, labels) == pytest.approx(100 * (3 * abs(2 / 3 - 0.9) + 0.1) / 4, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_the_temperature_is_found_again_and_is_that_of_a_search(temperature):
    logits, labels = overconfident(temperature)
    found = fit_temperature(logits.softmax(1), labels)
    assert found == pytest.approx(temperature, rel=0.06)
    around = found * torch.tensor([0.9, 0.999, 1.0, 1.001, 1.1], dtype=torch.float64)
    losses = [torch.nn.functional.cross_entropy(logits / t, labels).item() for t in around]
    assert min(losses) == losses[2]
    assert loss(with_temperature(logits.softmax(1), found, False), labels) == pytest.approx(losses[2])


def test_the_temperature_is_that_of_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    if not hasattr(calibration, "_TemperatureScaling"):
        pytest.skip("scikit-learn has temperature scaling from 1.8")
    logits, labels = overconfident(2.5, videos=500)
    reference = calibration._TemperatureScaling().fit(logits.numpy(), labels.numpy())
    assert fit_temperature(logits.softmax(1), labels) == pytest.approx(1 / reference.beta_, rel=1e-3)


def test_the_temperature_of_several_labels():
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(3000, 4, dtype=torch.float64, generator=generator)
    labels = torch.bernoulli((logits / 2).sigmoid(), generator=generator).long()
    found = fit_temperature(logits.sigmoid(), labels)
    assert found == pytest.approx(2, rel=0.06)
    losses = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits / t, labels.double()).item()
        for t in (0.999 * found, found, 1.001 * found)
    ]
    assert min(losses) == losses[1]
    assert loss(with_temperature(logits.sigmoid(), found, True), labels) == pytest.approx(losses[1])


def test_without_a_mistake_there_is_no_temperature_to_fit():
    probabilities = torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    assert fit_temperature(probabilities, torch.tensor([0, 1])) == 1.0
    assert fit_temperature(probabilities, torch.tensor([[1, 0], [0, 1]])) == 1.0


@pytest.mark.parametrize("probabilities", [[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]])
def test_certain_and_undecided_models_have_a_finite_temperature(probabilities):
    probabilities = torch.tensor(probabilities)
    found = fit_temperature(probabilities, torch.tensor([0, 1]))
    assert math.isfinite(found) and found >= COLDEST
    assert math.isfinite(loss(with_temperature(probabilities, found, False), torch.tensor([0, 1])))


def test_temperature_1_changes_no_bit_and_others_no_order():
    probabilities = torch.rand(20, 5).softmax(1)
    assert with_temperature(probabilities, 1.0, False) is probabilities
    for temperature in (0.3, 4.0):
        changed = with_temperature(probabilities, temperature, False)
        assert torch.equal(changed.argsort(1), probabilities.argsort(1))
        assert torch.allclose(changed.sum(1), torch.ones(20).double())


def test_which_temperature_applies():
    def asked(value, metadata):
        return temperature_of(load_config(None, ["NUM_GPUS", 0, "TEST.TEMPERATURE", value]), metadata, "a.pyth")

    assert asked("1.5", {"temperature": 2.0}) == 1.5 and asked("auto", {"temperature": 2.0}) == 2.0
    with pytest.raises(UserError, match="a.pyth has no temperature.*or a number"):
        asked("auto", {})
    for value in ("0", "-1", "nan", "warm"):
        with pytest.raises(UserError, match="TEST.TEMPERATURE"):
            asked(value, {})
