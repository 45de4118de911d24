import re
from pathlib import Path

import pytest

from onnxq import runtime, session_settings
from onnxq.errors import OptionError
from onnxq.session_settings import SessionSettings
from onnxq.validation import measure_options
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


def examples() -> list[str]:
    """Return every session option that a message or a page shows."""
    docs = Path(__file__).parent.parent / "docs"
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted(docs.glob("*.md")))
    shown = re.findall(r"--session-option ([a-z][\w.]+=\w+)", pages)
    shown += re.findall(r"`((?:session\.|enable_)[\w.]+=\w+)`", pages)
    assert len(shown) >= 3
    return sorted({measure_options.SESSION_OPTION_EXAMPLE, *shown})


@pytest.mark.parametrize("example", examples())
def test_every_option_that_is_shown_is_accepted(example: str) -> None:
    name, value = measure_options.parse_session_option(example)
    runtime.open_session(scaled(2), SessionSettings(options={name: value}))


def test_the_message_shows_the_example() -> None:
    with pytest.raises(OptionError, match=re.escape(measure_options.SESSION_OPTION_EXAMPLE)):
        measure_options.parse_session_option("x")
