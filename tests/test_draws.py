import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq import draws, runtime
from onnxq.draws import Recipe
from onnxq.errors import InputError, OnnxqError, OptionError, UnsupportedError
from tests.tiny_models import from_text, scaled

REFLECT = from_text(
    "g (float[batch, time] x) => (float[batch, t] y) <int64[4] p = {0, 64, 0, 64}>"
    '{ y = Pad<mode = "reflect">(x, p) }'
)
ROWS = from_text(
    "g (int64[4] i) => (float[4] y) <float[1] w = {7.0}> { y = Gather<axis = 0>(w, i) }"
)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "double", "int8", "uint64", "bool", "string"]
)
def test_random_feeds_of_every_type_are_accepted(dtype: str) -> None:
    model = from_text(f"g ({dtype}[N, 2] x) => ({dtype}[N, 2] y) {{ y = Identity(x) }}")
    session = runtime.open_session(model)
    found = draws.accepted(session, 0, 0)
    feeds, outputs = found.feeds, found.outputs
    np.testing.assert_array_equal(outputs["y"], feeds["x"])


def test_random_feeds_depend_on_seed_sample_and_name_alone() -> None:
    session = runtime.open_session(scaled(2))
    first = draws.random_feeds(session, 0, 0)["x"]
    np.testing.assert_array_equal(first, draws.random_feeds(session, 0, 0)["x"])
    for sample, seed in [(1, 0), (0, 1)]:
        assert not np.array_equal(first, draws.random_feeds(session, sample, seed)["x"])


def test_integers_are_zero_or_one() -> None:
    model = from_text("g (int32[64] x) => (int32[64] y) { y = Identity(x) }")
    drawn = draws.random_feeds(runtime.open_session(model), 0, 0)["x"]
    assert set(drawn.tolist()) == {0, 1}


def test_open_dimensions_are_one_unless_named() -> None:
    session = runtime.open_session(scaled(2))
    assert draws.random_feeds(session, 0, 0)["x"].shape == (1, 3)
    assert draws.random_feeds(session, 0, 0, Recipe(dims={"N": 5}))["x"].shape == (5, 3)


def test_a_size_that_the_model_accepts_is_found() -> None:
    feeds = draws.accepted(runtime.open_session(REFLECT), 0, 0).feeds
    assert feeds["x"].shape == (1, 224)


def test_integers_out_of_range_fall_back_to_zero() -> None:
    found = draws.accepted(runtime.open_session(ROWS), 0, 0)
    feeds, outputs = found.feeds, found.outputs
    assert feeds["i"].tolist() == [0, 0, 0, 0]
    assert outputs["y"].tolist() == [7, 7, 7, 7]


def test_the_first_error_is_raised_where_nothing_works() -> None:
    model = from_text(
        "g (float[2] x) => (float[3] y) <int64[1] s = {3}> { z = Abs(x) y = Reshape(z, s) }"
    )
    with pytest.raises((InputError, UnsupportedError), match=r"cannot be run: .*Reshape") as info:
        draws.accepted(runtime.open_session(model), 0, 0)
    assert "\n" not in str(info.value)
    assert "onnxruntime_src" not in str(info.value)


def test_a_huge_input_is_refused_before_it_is_drawn() -> None:
    model = from_text("g (float[1000000, 1000000] x) => (float[a, b] y) { y = Identity(x) }")
    with pytest.raises(UnsupportedError, match=r"'x' of shape .* too large"):
        draws.random_feeds(runtime.open_session(model), 0, 0)


def test_an_input_that_is_no_tensor_is_refused() -> None:
    model = from_text("g (seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }")
    with pytest.raises(UnsupportedError, match="'x' of type seq"):
        draws.random_feeds(runtime.open_session(model), 0, 0)


INTEGERS = {name: np.iinfo(name) for name in ("int8", "uint8", "int64", "uint64")}


def copied(dtype: str) -> runtime.Session:
    return runtime.open_session(
        from_text(f"g ({dtype}[50] x) => ({dtype}[50] y) {{ y = Identity(x) }}")
    )


@given(st.sampled_from(sorted(INTEGERS)), st.data())
def test_integers_lie_in_their_range(dtype: str, data: st.DataObject) -> None:
    limits = INTEGERS[dtype]
    whole = st.integers(int(limits.min), int(limits.max) + 1)
    low, high = sorted(data.draw(st.lists(whole, min_size=2, max_size=2, unique=True)))
    drawn = draws.random_feeds(copied(dtype), 0, 0, Recipe(ranges={"x": (low, high)}))["x"]
    assert drawn.dtype == dtype
    assert all(low <= value < high for value in drawn.tolist())


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16", "double"])
@pytest.mark.parametrize("limits", [(0, 1), (-1e-3, 1e-3), (1000, 1001)])
def test_floats_lie_in_their_range(dtype: str, limits: tuple[float, float]) -> None:
    drawn = draws.random_feeds(copied(dtype), 0, 0, Recipe(ranges={"x": limits}))["x"]
    numbers = drawn.astype(np.float64)
    slack = 1e-5 if limits[0] == -1e-3 else 0.0  # -0.001 is no half or bfloat16
    assert numbers.min() >= limits[0] - slack
    assert numbers.max() < limits[1]


def test_a_range_of_one_value_is_that_value() -> None:
    drawn = draws.random_feeds(copied("int64"), 0, 0, Recipe(ranges={"x": (16000, 16001)}))
    assert set(drawn["x"].tolist()) == {16000}


def test_the_retry_stays_within_the_range() -> None:
    model = from_text(
        "g (int64[4] i) => (float[4] y) <float[6] w = {0.0, 0.0, 0.0, 7.0, 0.0, 0.0}>"
        "{ y = Gather<axis = 0>(w, i) }"
    )
    feeds = draws.accepted(runtime.open_session(model), 0, 0, Recipe(ranges={"i": (3, 1000)})).feeds
    assert feeds["i"].tolist() == [3, 3, 3, 3]


SIX_ROWS = from_text(
    "g (int64[4] i) => (float[4] y) <float[6] w = {0.0, 0.0, 0.0, 7.0, 0.0, 0.0}>"
    "{ y = Gather<axis = 0>(w, i) }"
)


@pytest.mark.parametrize("limits", [(0, 1000), (3, 1000)])
def test_a_range_that_was_asked_for_is_drawn_or_fails(limits: tuple[int, int]) -> None:
    recipe = Recipe(ranges={"i": limits}, kept=frozenset({"i"}))
    with pytest.raises(OnnxqError, match="indices element out of data bounds"):
        draws.accepted(runtime.open_session(SIX_ROWS), 0, 0, recipe)


@pytest.mark.parametrize(("limits", "value"), [((0, 1000), 0), ((3, 1000), 3)])
def test_what_was_fed_in_the_place_of_random_values_is_known(
    limits: tuple[int, int], value: int
) -> None:
    session = runtime.open_session(SIX_ROWS)
    assert draws.accepted(session, 0, 0, Recipe(ranges={"i": limits})).constants == {"i": value}
    assert draws.accepted(session, 0, 0, Recipe(ranges={"i": (0, 6)})).constants == {}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(dims={"M": 2}), "--dim M: .* no open dimension .*named dimensions are N"),
        (Recipe(dims={"N": -2}), "--dim N: found -2"),
        (Recipe(ranges={"z": (0, 1)}), "--input z: .* no input of this name; its inputs are x"),
        (Recipe(ranges={"x": (1, 1)}), "--input x: found 1:1, expected low < high"),
        (Recipe(ranges={"x": (0, np.inf)}), "--input x: found 0:inf, expected low < high"),
    ],
)
def test_a_recipe_that_does_not_fit_is_an_option_error(recipe: Recipe, message: str) -> None:
    session = runtime.open_session(scaled(2))
    with pytest.raises(OptionError, match=message):
        draws.accepted(session, 0, 0, recipe)


@pytest.mark.parametrize(
    ("dtype", "limits", "message"),
    [
        ("uint8", (0, 257), "expected 0:256 or less"),
        ("int8", (-129, 0), "expected -128:128 or less"),
        ("int32", (0.5, 2), "expected whole numbers: the input is int32"),
        ("bool", (0, 2), "a range needs numbers, the input is bool"),
        ("string", (0, 2), "a range needs numbers, the input is str"),
    ],
)
def test_a_range_that_a_dtype_cannot_have_is_an_option_error(
    dtype: str, limits: tuple[float, float], message: str
) -> None:
    with pytest.raises(OptionError, match=f"--input x: .*{message}"):
        draws.random_feeds(copied(dtype), 0, 0, Recipe(ranges={"x": limits}))
