"""Attentive heads: what they learn, that those of a grid are independent, and that the model computes the same."""

import pytest
import torch
from torch import nn

from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine import attentive_heads
from slowfast_uniformer.engine.attentive_heads import Heads, Setting, fit_heads, into_model, logits_of, views_of
from slowfast_uniformer.engine.linear_heads import logistic_regression

VIDEOS, FRAMES, CHANNELS, CLASSES = 120, 6, 8, 2


def in_order(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Views whose class is whether an event precedes another one; their mean over time says nothing."""
    generator = torch.Generator().manual_seed(seed)
    stored = 0.3 * torch.randn(VIDEOS, FRAMES, 1 + 2, CHANNELS, generator=generator)
    labels = torch.arange(VIDEOS) % CLASSES
    for row, label in zip(stored, labels, strict=True):
        early, late = torch.randint(3, (2,), generator=generator)
        row[early, 1 + early % 2, 2 if label else 5] += 6
        row[3 + late, 1 + late % 2, 5 if label else 2] += 6
    stored[:, :, 0] = stored[:, :, 1:].mean(dim=(1, 2))[:, None]
    return stored, labels


def begin(views, stored, labels, count: int = 1) -> Heads:
    features = (stored[:, 0, 0] - views.mean[0]) / views.deviation[0]
    weight, bias = logistic_regression(features, labels, CLASSES, 0.01)
    return Heads(weight.expand(count, -1, -1), bias.expand(count, -1), queries=4, frames=FRAMES, seed=0)


def every(count: int) -> torch.Tensor:
    return torch.ones(count, VIDEOS, dtype=torch.bool)


def accuracy(logits, labels) -> float:
    return float((logits.argmax(-1) == labels).float().mean())


def test_an_attentive_head_learns_an_order_that_the_mean_does_not_have():
    stored, labels = in_order()
    views = views_of(stored, torch.arange(VIDEOS))
    heads = begin(views, stored, labels)
    others, their_labels = in_order(seed=1)
    views_of_others = attentive_heads.Views(others, torch.arange(VIDEOS), views.mean, views.deviation)
    before = accuracy(logits_of(heads, views_of_others)[0], their_labels)
    fit_heads(heads, views, labels, [Setting(0.03, 0.01)], every(1), seed=0)
    after = accuracy(logits_of(heads, views_of_others)[0], their_labels)
    shuffled = accuracy(logits_of(heads, views_of_others, shuffled=0)[0], their_labels)
    assert before < 0.65 and after > 0.95 and shuffled < 0.75, (before, after, shuffled)


def test_heads_of_a_grid_are_trained_as_each_alone():
    stored, labels = in_order()
    views, settings = views_of(stored, torch.arange(VIDEOS)), [Setting(1e-2, 0.1), Setting(1e-3, 1.0)]
    parts = every(2)
    parts[1, ::3] = False
    together = begin(views, stored, labels, 2)
    fit_heads(together, views, labels, settings, parts, seed=0)
    assert not torch.allclose(together.parameters["query"][0], together.parameters["query"][1])
    for number, setting in enumerate(settings):
        alone = begin(views, stored, labels)
        fit_heads(alone, views, labels, [setting], parts[number : number + 1], seed=0)
        for name, (value,) in alone.parameters.items():
            torch.testing.assert_close(together.parameters[name][number], value, rtol=1e-3, atol=1e-4)


def test_a_head_does_not_see_the_videos_that_it_is_not_fitted_to():
    stored, labels = in_order()
    parts = every(1)
    parts[:, :30] = False
    found = []
    for other in (labels, torch.cat((1 - labels[:30], labels[30:]))):
        views = views_of(stored, torch.arange(VIDEOS))
        heads = begin(views, stored, labels)
        fit_heads(heads, views, other, [Setting(1e-2, 0.1)], parts, seed=0)
        found.append(heads.parameters["weight"][0])
    assert torch.equal(*found)


def test_the_pool_and_its_classifier_compute_the_same_from_tokens_as_they_are():
    stored, labels = in_order()
    stored = stored * torch.linspace(0.1, 10, CHANNELS) + torch.arange(CHANNELS)
    views = views_of(stored, torch.arange(VIDEOS))
    heads = begin(views, stored, labels)
    fit_heads(heads, views, labels, [Setting(1e-2, 0.1)], every(1), seed=0)
    pool, weight, bias = into_model(heads, 0, views)
    found = pool(stored[:, 0, 0], stored[:, :, 1:]) @ weight.T + bias
    torch.testing.assert_close(found, logits_of(heads, views)[0], rtol=1e-3, atol=1e-3)


def test_views_are_standardized_by_channel_in_half_precision_too():
    stored = (torch.randn(300, 2, 3, 4) * torch.tensor([1, 5, 0.2, 0]) + 3).half()
    stored[:, :, 0] = stored[:, :1, 0]
    views = views_of(stored, torch.arange(300))
    features, tokens = views.read(torch.arange(300))
    for values in (features, tokens.flatten(0, 2)):
        deviation, mean = torch.std_mean(values, dim=0, correction=0)
        torch.testing.assert_close(mean, torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(deviation, torch.tensor([1.0, 1, 1, 0]), atol=1e-2, rtol=0)


def test_several_labels_a_video():
    stored, labels = in_order()
    targets = nn.functional.one_hot(labels, CLASSES).float()
    views = views_of(stored, torch.arange(VIDEOS))
    heads = begin(views, stored, targets)
    fit_heads(heads, views, targets, [Setting(0.03, 0.01)], every(1), seed=0)
    assert ((logits_of(heads, views)[0] > 0) == (targets > 0)).float().mean() > 0.95


def test_a_signal_ends_the_fit(monkeypatch):
    stored, labels = in_order()
    views = views_of(stored, torch.arange(VIDEOS))
    monkeypatch.setattr(signals, "stop_requested", lambda: True)
    with pytest.raises(signals.Interrupted):
        fit_heads(begin(views, stored, labels), views, labels, [Setting(1e-2, 0.1)], every(1), seed=0)
