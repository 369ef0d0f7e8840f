"""Simple classifiers on features."""

import numpy as np
import pytest
from sklearn.datasets import load_iris

from vision.errors import UsageError
from vision.explain import probe


@pytest.mark.parametrize("name", probe.PROBES)
def test_each_learns_irises_whatever_the_scale_of_a_feature(name):
    features, labels = load_iris(return_X_y=True)
    scaled = features * [1, 1e4, 1, 1e-4]
    fitted = probe.fit(name, scaled[::2], labels[::2])
    assert fitted.score(scaled[1::2], labels[1::2]) > 0.9
    assert np.array_equal(fitted.predict(scaled), probe.fit(name, features[::2], labels[::2]).predict(features))


def test_unknown_name():
    with pytest.raises(UsageError, match=r"--probe: unknown probe 'logistik'; did you mean 'logistic'\?"):
        probe.fit("logistik", np.zeros((2, 1)), np.arange(2))
