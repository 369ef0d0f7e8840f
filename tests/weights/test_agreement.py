"""Our networks give the logits of the published ones, and their weights come back as they were."""

import jax
import numpy as np
import pytest

from vision import models, weights


def test_every_classifier_of_the_reference_is_here(reference):
    assert len(reference.names()) == 23
    missing = [name for name in reference.names() if name.split("/")[1] not in models.MODELS]
    assert missing == []


@pytest.mark.slow
def test_logits_and_round_trip(published, reference):
    source, name = published.split("/")
    state_dict, image = reference.state_dict(published), reference.image(published)
    model = models.create(name, num_classes=1000)
    variables = weights.from_state_dict(model, state_dict, source, image_size=image.shape[1:3])
    assert models.count_parameters(variables["params"]) == reference.parameters(published)

    expected = reference.logits(published)
    given = np.asarray(jax.jit(lambda variables, image: model.apply(variables, image)["logits"])(variables, image))
    assert np.abs(given - expected).max() / expected.std() < 1e-4

    back = weights.to_state_dict(model, variables, source)
    assert set(back) == set(state_dict)
    for key, value in state_dict.items():
        assert back[key].dtype == value.dtype
        np.testing.assert_array_equal(back[key], value, err_msg=key)
