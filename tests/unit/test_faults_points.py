"""Named points: off unless asked for, and what each word does at them."""

import threading
import time
from pathlib import Path

import pytest

from nodes.contract import faults


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(faults, "_FOLDER", str(tmp_path))
    return tmp_path


def test_without_a_folder_a_point_looks_at_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "_FOLDER", None)
    monkeypatch.setattr(faults, "Path", None)
    faults.point("verb.started", "disk.create")


def test_a_note_is_a_moment_and_a_name_and_the_point_stays_armed(folder: Path):
    (folder / "verb.started").write_text("note")
    before = time.monotonic()
    faults.point("verb.started", "disk.create")
    faults.point("verb.started")
    faults.point("verb.ended")
    lines = [line.split(" ", 1) for line in (folder / "notes").read_text().splitlines()]
    assert [name for _, name in lines] == ["verb.started:disk.create", "verb.started:"]
    assert before - 0.001 <= float(lines[0][0]) <= float(lines[1][0]) <= time.monotonic() + 0.001
    assert (folder / "verb.started").exists()


def test_notes_of_several_threads_are_whole_lines(folder: Path):
    (folder / "verb.started").write_text("note")

    def pass_by() -> None:
        for _ in range(50):
            faults.point("verb.started", "disk.create")

    threads = [threading.Thread(target=pass_by) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (folder / "notes").read_text().splitlines()
    assert len(lines) == 200
    assert {line.split(" ")[1] for line in lines} == {"verb.started:disk.create"}


def test_a_detail_is_asked_for_before_the_point_alone(folder: Path):
    (folder / "verb.started:disk.create").write_text("note")
    faults.point("verb.started", "disk.delete")
    assert not (folder / "notes").exists()


def test_hold_waits_until_it_is_let_go_and_fires_once(folder: Path):
    (folder / "verb.started").write_text("hold\n")
    passed = threading.Event()
    thread = threading.Thread(target=lambda: (faults.point("verb.started"), passed.set()))
    thread.start()
    reached = folder / "verb.started.reached"
    while not reached.exists():
        time.sleep(0.001)
    assert not passed.is_set()
    reached.unlink()
    assert passed.wait(5)
    faults.point("verb.started")
