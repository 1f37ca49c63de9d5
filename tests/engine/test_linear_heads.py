"""Logistic regression, nearest neighbours and cross-validation, on features whose answers are known."""

import math

import pytest
import torch
import torch.nn.functional as F

from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine.linear_heads import cross_validate, folds_of, logistic_regression, nearest_neighbours
from slowfast_uniformer.errors import UserError


def penalized(weight, bias, x, targets, loss, factor):
    """The function to be minimized, for features that are standardized already."""
    sums = loss(x @ weight.T + bias, targets, reduction="sum")
    return factor * sums + weight.square().sum() / 2


@pytest.mark.parametrize(("classes", "many"), [(4, False), (2, False), (4, True)])
def test_logistic_regression_finds_the_minimum(classes, many):
    torch.manual_seed(0)
    x = torch.randn(60, 5, dtype=torch.float64) * torch.tensor([1, 10, 0.1, 1, 0]) + 3
    targets = torch.randint(2, (60, classes)) if many else torch.randint(classes, (60,))
    loss = F.binary_cross_entropy_with_logits if many else F.cross_entropy
    weight, bias = logistic_regression(x, targets, classes, 0.5)
    assert weight.shape == (classes, 5) and bias.shape == (classes,)

    deviation = x.std(0, correction=0)
    deviation[4] = 1
    own = (weight.double() * deviation).requires_grad_()
    shift = (bias + weight @ x.mean(0).float()).double().requires_grad_()
    wanted = targets.double() if many else targets
    value = penalized(own, shift, (x - x.mean(0)) / deviation, wanted, loss, 0.5)
    value.backward()
    assert own.grad.abs().max() < 1e-4 and shift.grad.abs().max() < 1e-4


def test_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(1)
    x, labels = 5 * torch.randn(90, 6) + 2, torch.randint(3, (90,))
    weight, bias = logistic_regression(x, labels, 3, 0.1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=1000))
    theirs.fit(x.double().numpy(), labels.numpy())
    found = (x @ weight.T + bias).softmax(1)
    torch.testing.assert_close(
        found.double(), torch.from_numpy(theirs.predict_proba(x.double().numpy())), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("labels", [[1, 3], [1, 3, 4], [3]])
def test_a_class_without_videos_is_never_predicted(labels):
    torch.manual_seed(0)
    targets = torch.tensor(labels).repeat(10)
    x = F.one_hot(targets, 5) + 0.1 * torch.randn(len(targets), 5)
    weight, bias = logistic_regression(x, targets, 5, 1.0)
    assert torch.equal((x @ weight.T + bias).argmax(1), targets)
    assert weight[[0, 2]].count_nonzero() == 0 and bias.softmax(0)[[0, 2]].max() < 1e-3


def test_several_labels_of_which_one_is_everywhere_and_one_nowhere():
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    targets = torch.stack([torch.ones(40), torch.zeros(40), (x[:, 0] > 0).float()], 1)
    weight, bias = logistic_regression(x, targets, 3, 1.0)
    found = (x @ weight.T + bias).sigmoid()
    assert found[:, 0].min() > 0.99 and found[:, 1].max() < 0.01
    assert ((found[:, 2] > 0.5) == (x[:, 0] > 0)).float().mean() > 0.9


def test_folds_hold_each_class_evenly():
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 3)
    folds = folds_of(labels, 5, 0)
    assert folds[:20].bincount().tolist() == [4] * 5 and folds[20:30].bincount().tolist() == [2] * 5
    assert sorted(folds.unique().tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(folds, folds_of(labels, 5, 0)) and not torch.equal(folds, folds_of(labels, 5, 1))
    multi_hot = F.one_hot(labels, 3)
    assert folds_of(multi_hot, 5, 0)[:20].bincount().tolist() == [4] * 5
    assert folds_of(torch.arange(10), 5, 0).bincount().tolist() == [2] * 5  # a class for each video
    with pytest.raises(UserError, match="3 videos cannot fill 5 folds"):
        folds_of(torch.arange(3), 5, 0)


def test_cross_validation_predicts_held_out_videos_and_takes_the_first_of_equals(monkeypatch):
    labels, seen = torch.arange(12) % 3, []

    def fit(videos, value):
        def predict(held_out):
            assert not (videos & held_out).any() and (videos | held_out).all()
            seen.append(value)
            right = labels[held_out] if value > 1 else (labels[held_out] + 1) % 3
            return F.one_hot(right, 3).double()

        return predict

    def score(predictions):
        return float((predictions.argmax(1) == labels).float().mean())

    best, scores = cross_validate(fit, (1, 2, 3), folds_of(labels, 4, 0), score)
    assert best == 2 and scores == [0, 1, 1] and len(seen) == 12
    monkeypatch.setattr(signals, "stop_requested", lambda: True)
    with pytest.raises(signals.Interrupted):
        cross_validate(fit, (1, 2), folds_of(labels, 4, 0), score)


def test_nearest_neighbours_vote_by_cosine():
    x = torch.tensor([[2.0, 0.1], [4.0, -0.1], [-2.0, 0.1], [-4.0, -0.1]])
    labels = torch.tensor([2, 2, 0, 0])
    found = nearest_neighbours(x, labels, 4, 1)(torch.tensor([[1.0, 0.0], [-9.0, 0.0]]))
    assert found.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]

    rows = torch.tensor([[1.0, 0.05], [3.0, -0.07]])
    found = nearest_neighbours(x, labels, 4, 99)(rows)  # all four vote
    z, other = x / x.std(0, correction=0), rows / x.std(0, correction=0)
    votes = (F.normalize(other) @ F.normalize(z).T / 0.07).exp()
    wanted = votes[:, :2].sum(1) / votes.sum(1)
    torch.testing.assert_close(found[:, 2], wanted.double(), rtol=1e-4, atol=1e-6)
    assert math.isclose(float(found.sum()), 2, rel_tol=1e-9)
