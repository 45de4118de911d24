import os
import threading

import pytest

from onnxq.quiet import silent_stderr


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
