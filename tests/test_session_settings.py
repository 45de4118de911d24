import pytest

from onnxq import runtime, session_settings
from onnxq.errors import OptionError
from onnxq.session_settings import SessionSettings
from tests.tiny_models import scaled


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("session.disable_prepakcing", "near are session.disable_prepacking"),
        ("enable_mem_patern", "no such session option; near are enable_mem_pattern"),
        ("nonsense", "no such session option; its documentation lists them"),
        ("", "no such session option; its documentation lists them"),
    ],
)
def test_an_unknown_session_option_is_an_option_error(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=f"--session-option {name}: onnxruntime .* {message}"):
        runtime.open_session(scaled(2), SessionSettings(options={name: "1"}))


def test_a_switch_is_0_or_1() -> None:
    with pytest.raises(OptionError, match="enable_mem_reuse: found 'yes', expected 0 or 1"):
        runtime.open_session(scaled(2), SessionSettings(options={"enable_mem_reuse": "yes"}))


def test_names_are_not_checked_where_the_library_cannot_be_read() -> None:
    assert session_settings._config_keys("no such file") == frozenset()
