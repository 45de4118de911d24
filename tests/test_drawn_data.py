import gc
import weakref

import numpy as np

from onnxq import runtime
from onnxq.data.drawn_data import GivenData, RandomData
from onnxq.draws import Recipe
from tests.tiny_models import from_text, scaled


def test_random_samples_are_the_same_in_every_walk() -> None:
    data = RandomData(runtime.open_session(scaled(1)), samples=3, seed=1)
    first, second = list(data.batches()), list(data.batches())
    assert [batch.where for batch in first] == [f"random sample {i}" for i in range(3)]
    for left, right in zip(first, second, strict=True):
        assert np.array_equal(left.feeds["x"], right.feeds["x"])
    assert not np.array_equal(first[0].feeds["x"], first[1].feeds["x"])


def test_the_model_is_released_once_samples_are_drawn() -> None:
    session = runtime.open_session(scaled(1))
    kept = weakref.ref(session._inner)
    data = RandomData(session)
    del session
    list(data.batches())
    gc.collect()
    assert kept() is None


def test_a_recipe_is_followed() -> None:
    model = from_text("g (float[N, M] x) => (float[N, M] y) { y = Identity(x) }")
    recipe = Recipe(dims={"M": 4}, ranges={"x": (5.0, 6.0)})
    (batch,) = RandomData(runtime.open_session(model), recipe=recipe).batches()
    assert batch.feeds["x"].shape == (1, 4)
    assert (batch.feeds["x"] >= 5).all()


def test_given_inputs_have_the_samples_that_all_share() -> None:
    data = GivenData(
        [
            {"x": np.zeros((4, 2)), "z": np.array(3)},
            {"x": np.zeros((4, 2)), "z": np.zeros(3)},
            {"z": np.array(3)},
        ]
    )
    assert [batch.samples for batch in data.batches()] == [4, 1, 1]
    assert data.available == 6
