"""How much of the classes is in a network's features: simple classifiers of scikit-learn, trained on them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vision.errors import pick


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _svm() -> Any:
    from sklearn.svm import SVC

    return SVC()


def _knn() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier()


# Logistic regression, a support-vector machine with a Gaussian kernel, the five nearest neighbours.
PROBES: dict[str, Callable[[], Any]] = {"logistic": _logistic, "svm": _svm, "knn": _knn}


def fit(name: str, features: np.ndarray, labels: np.ndarray) -> Any:
    """The classifier of that name, a scikit-learn estimator, trained on standardised features.

    Args:
        name: in `PROBES`.
        features: (N, width).
        labels: (N,).

    Raises:
        UsageError: an unknown name.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), pick(PROBES, "probe", name, "--probe")()).fit(features, labels)
