"""Heads that are fitted to features in one go: logistic regression, and the nearest neighbours' vote (scikit-learn)."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from slowfast_uniformer.distributed import signals
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import counted

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)  # values of C: the smaller, the stronger the penalty
NEIGHBOURS = (1, 3, 5, 10, 20)
TEMPERATURE = 0.07  # of the votes of neighbours: exp(cosine / 0.07), as DINO's evaluation (arXiv 2104.14294)
_NEVER = -10.0  # bias of a class that no video has, below the smallest one of the others
_ALWAYS = 10.0  # bias of a class that each video has, where there may be several


def is_linear(layer: nn.Module) -> bool:
    """Whether a classifier can be one that is fitted: a linear layer with a bias."""
    return isinstance(layer, nn.Linear) and layer.bias is not None


@torch.no_grad()
def set_linear(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give a layer a fitted weight and bias."""
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


def logistic_regression(features: Tensor, targets: Tensor, classes: int, weight: float) -> tuple[Tensor, Tensor]:
    """Fit a linear classifier in float64 on standardized features.

    Minimizes `weight` (scikit-learn's C) times the sum of losses plus half the squared norm of the weights.

    Args:
        features: (N, C).
        targets: labels (N,), or multi-hot (N, classes), one binary problem per class.

    Returns:
        Weight (classes, C) and bias (classes,) in fp32, for the features as they are. A class without videos has no
        weights and a bias below all others.
    """
    x = features.double()
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    fit = _one_versus_rest if targets.ndim > 1 else _softmax
    coefficients, bias = fit(((x - mean) / deviation).numpy(), targets.numpy(), classes, weight)
    fitted = torch.from_numpy(coefficients) / deviation
    return fitted.float(), (torch.from_numpy(bias) - fitted @ mean).float()


def _softmax(x: np.ndarray, labels: np.ndarray, classes: int, weight: float) -> tuple[np.ndarray, np.ndarray]:
    coefficients, bias = np.zeros((classes, x.shape[1])), np.zeros(classes)
    present = np.unique(labels)
    if len(present) == 2:
        # scikit-learn fits the difference v of the weights +v/2 and -v/2 of both classes, whose squares sum to v²/2
        difference, shift = _solve(x, labels == present[1], 2 * weight)
        sides = np.array([[-0.5], [0.5]])
        coefficients[present], bias[present] = sides * difference, sides[:, 0] * shift
    elif len(present) > 2:
        coefficients[present], bias[present] = _solve(x, labels, weight)
    absent = np.setdiff1d(np.arange(classes), present)
    bias[absent] = bias[present].min() + _NEVER
    return coefficients, bias


def _one_versus_rest(x: np.ndarray, targets: np.ndarray, classes: int, weight: float) -> tuple[np.ndarray, np.ndarray]:
    coefficients, bias = np.zeros((classes, x.shape[1])), np.zeros(classes)
    for label, hits in enumerate(targets.T > 0):
        if hits.all() or not hits.any():
            bias[label] = _ALWAYS if hits.all() else _NEVER
        else:
            (coefficients[label],), (bias[label],) = _solve(x, hits, weight)
    return coefficients, bias


def _solve(x: np.ndarray, labels: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after so many steps it is the best there is
        fitted = LogisticRegression(C=weight, tol=1e-6, max_iter=1000).fit(x, labels)
    return fitted.coef_, fitted.intercept_


def folds_of(targets: Tensor, count: int, seed: int) -> Tensor:
    """The fold (V,) of each video, from 0; each class is spread over all folds as evenly as it can be.

    Args:
        targets: labels (V,), or multi-hot (V, K): then videos with equal labels are.

    Raises:
        UserError: there are fewer videos than folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if len(targets) < count:
        raise UserError(f"{counted(len(targets), 'video')} cannot fill {count} folds; more videos, or fewer --folds")
    groups = targets if targets.ndim == 1 else targets.unique(dim=0, return_inverse=True)[1]
    folds = torch.empty(len(targets), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # it has less than one video in each fold
        groups = groups if groups.bincount().max() >= count else torch.zeros_like(groups)
        splits = StratifiedKFold(count, shuffle=True, random_state=seed).split(np.zeros(len(groups)), groups.numpy())
        for fold, (_, held_out) in enumerate(splits):
            folds[torch.from_numpy(held_out)] = fold
    return folds


def cross_validate(
    fit: Callable[[Tensor, float], Callable[[Tensor], Tensor]],
    values: Sequence[float],
    folds: Tensor,
    score: Callable[[Tensor], float],
) -> tuple[float, list[float]]:
    """The best of several values by the score of held-out predictions, the first of equal ones.

    Args:
        fit: the videos to fit to (bool, (V,)) and a value to a function from videos (bool) to predictions (n, K).
        values: to try, that of the simplest head first.
        folds: (V,), see `folds_of`.
        score: of predictions (V, K) of all videos.

    Returns:
        The best value, and the scores of all.
    """
    scores = []
    for value in values:
        predictions: list[Tensor] = []
        order: list[Tensor] = []
        for fold in folds.unique():
            signals.raise_if_any([signals.stop_requested()])
            held_out = folds == fold
            predictions.append(fit(~held_out, value)(held_out))
            order.append(held_out.nonzero().flatten())
        scores.append(score(torch.cat(predictions)[torch.cat(order).argsort()]))
    return values[int(np.argmax(scores))], scores


def nearest_neighbours(features: Tensor, labels: Tensor, classes: int, count: int) -> Callable[[Tensor], Tensor]:
    """A k-nearest-neighbours classifier by the cosine of standardized features; near neighbours' votes count for more.

    Args:
        features: (N, C).
        labels: (N,).
        count: neighbours that vote; all where there are fewer.

    Returns:
        A function from features (M, C) to probabilities (M, classes).
    """
    from sklearn.neighbors import KNeighborsClassifier

    deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)

    def standardized(rows: Tensor) -> np.ndarray:
        return ((rows.double() - mean) / deviation).numpy()

    def votes(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / TEMPERATURE)

    voting = KNeighborsClassifier(min(count, len(labels)), metric="cosine", weights=votes)
    voting.fit(standardized(features), labels.numpy())

    def predict(rows: Tensor) -> Tensor:
        probabilities = torch.zeros(len(rows), classes, dtype=torch.float64)
        probabilities[:, torch.from_numpy(voting.classes_)] = torch.from_numpy(voting.predict_proba(standardized(rows)))
        return probabilities

    return predict
