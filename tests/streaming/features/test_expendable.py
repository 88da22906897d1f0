"""The end of an expendable process, whatever it is at."""

from __future__ import annotations

import signal
import threading
from multiprocessing import Pipe
from pathlib import Path

import pytest

from conf.loading import load_settings
from streaming.features import expendable
from streaming.features.expendable import ExpendableFeaturizer
from streaming.features.featurizer import Recipe
from streaming.features.schema import PICTURES, as_table
from streaming.storage.locations import list_pictures


def test_a_process_that_does_not_end_is_killed(
    source: Path, pictures: list[Path], backbone: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task would wait for it for ever."""
    (source / "a.jpg").write_bytes(pictures[0].read_bytes())
    [listed] = as_table(list_pictures(str(source), print)).cast(PICTURES).combine_chunks().to_batches()
    monkeypatch.setattr(expendable, "_LONGEST_END", 0.1)
    with ExpendableFeaturizer(Recipe.of(backbone, None, load_settings({}))) as featurizer:
        [outcome] = featurizer(listed)
        assert outcome.column("reason").to_pylist() == [None]
        assert featurizer._child
        process = featurizer._child._process
        process.send_signal(signal.SIGSTOP)
    assert process.wait(60) == -signal.SIGKILL


def test_a_process_does_not_wait_for_reads_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would, at an orderly end."""
    there, here = Pipe()
    ended: list[int] = []

    class Ended(BaseException):
        """What `os._exit` does here."""

    def leave(code: int) -> None:
        ended.append(code)
        raise Ended

    monkeypatch.setattr(expendable, "Featurizer", lambda recipe: None)
    monkeypatch.setattr(expendable, "_limit_memory", lambda more: None)
    monkeypatch.setattr("os._exit", leave)

    def use() -> None:
        with there:
            there.send(Recipe.of(b"", None, load_settings({})))
            there.recv()

    user = threading.Thread(target=use)
    user.start()
    with pytest.raises(Ended):
        expendable._serve(here)
    user.join()
    assert ended == [0]
