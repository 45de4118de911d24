import os
import sys
import threading
import warnings

import pytest

from onnxq.quiet import silent_stderr, silent_warnings, stdout_on_stderr


def test_what_is_written_meanwhile_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with silent_stderr():
        os.write(2, b"lost")
    os.write(2, b"kept")
    assert capfd.readouterr().err == "kept"


def test_stderr_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), silent_stderr():
        raise KeyError
    os.write(2, b"kept")
    assert capfd.readouterr().err == "kept"


def test_threads_take_turns(capfd: pytest.CaptureFixture[str]) -> None:
    first_is_in, second_asks = threading.Event(), threading.Event()

    def first() -> None:
        with silent_stderr():
            first_is_in.set()
            second_asks.wait()

    def second() -> None:
        first_is_in.wait()
        second_asks.set()
        with silent_stderr():
            os.write(2, b"lost")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"kept")
    assert capfd.readouterr().err == "kept"


def test_warnings_are_ignored_but_those_of_damage() -> None:
    with silent_warnings():
        warnings.warn("noise", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="EOF"):
            warnings.warn("Reached EOF prematurely; finished at 3 bytes", UserWarning, stacklevel=1)
    with pytest.raises(UserWarning, match="noise"):
        warnings.warn("noise", UserWarning, stacklevel=1)


def test_threads_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    interval = sys.getswitchinterval()

    def work() -> None:
        for _ in range(200):
            with silent_warnings():
                warnings.warn("noise", UserWarning, stacklevel=1)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


def test_threads_are_silent_side_by_side() -> None:
    meet = threading.Barrier(2, timeout=30)

    def work() -> None:
        with silent_warnings():
            meet.wait()  # would never be passed one after the other

    other = threading.Thread(target=work)
    other.start()
    work()
    other.join()
    assert not meet.broken


def test_what_is_printed_meanwhile_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with stdout_on_stderr():
        sys.stdout.write("of Python, ")
        sys.stdout.flush()
        os.write(1, b"of others")
    assert sys.stdout is before
    os.write(1, b"product")
    assert capfd.readouterr() == ("product", "of Python, of others")


def test_stdout_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with pytest.raises(KeyError), stdout_on_stderr():
        raise KeyError
    assert sys.stdout is before
    os.write(1, b"product")
    assert capfd.readouterr() == ("product", "")


def test_without_stderr_it_is_lost(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with stdout_on_stderr():
        sys.stdout.write("lost")
    assert capfd.readouterr() == ("", "")
