from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from detsearch.cost import device_lock
from detsearch.errors import ResourceError

PRELUDE = """
import os, sys, time
from pathlib import Path
from detsearch.cost.device_lock import exclusive, shared
def say(word): print(word, flush=True)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Start a process that runs a piece of code; all are killed in the end."""
    monkeypatch.setenv(device_lock.FOLDER_VARIABLE, str(tmp_path / "locks"))
    running: list[subprocess.Popen[str]] = []

    def run(code: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PRELUDE + code, *map(str, args)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        running.append(process)
        return process

    yield run
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


HOLD = """
with {kind}("cpu"):
    say("held")
    sys.stdin.readline()
"""


def test_shared_holders_hold_together(start):
    first, second = start(HOLD.format(kind="shared")), start(HOLD.format(kind="shared"))
    assert heard(first) == heard(second) == "held"
    with device_lock.shared("cpu"):
        pass


@pytest.mark.parametrize(
    ("holder", "comer"), [("exclusive", "shared"), ("exclusive", "exclusive"), ("shared", "exclusive")]
)
def test_alone_means_alone(start, holder, comer):
    first = start(HOLD.format(kind=holder))
    assert heard(first) == "held"
    entered = threading.Event()

    def come() -> None:
        with getattr(device_lock, comer)("cpu"):
            entered.set()

    thread = threading.Thread(target=come)
    thread.start()
    assert not entered.wait(0.3)
    first.communicate("go\n")
    assert entered.wait(10)
    thread.join()


def test_devices_are_independent(start):
    holder = start(HOLD.format(kind="exclusive"))
    assert heard(holder) == "held"
    with device_lock.exclusive("cuda:0"), device_lock.exclusive("cuda:1"):
        pass


def test_no_process_sees_another_inside_its_measurement(start, tmp_path):
    """Writers leave the number odd while they are inside; a reader that sees it odd, or change, was let in wrongly."""
    number = tmp_path / "number"
    number.write_text("0")
    write = """
path = Path(sys.argv[1])
for _ in range(60):
    with exclusive("cpu"):
        value = int(path.read_text())
        path.write_text(str(value + 1)); time.sleep(0.0005); path.write_text(str(value + 2))
"""
    read = """
path = Path(sys.argv[1])
wrong = 0
for _ in range(200):
    with shared("cpu"):
        before = path.read_text(); time.sleep(0.0002)
        wrong += before != path.read_text() or int(before) % 2
say(wrong)
"""
    readers, writers = [start(read, number) for _ in range(2)], [start(write, number) for _ in range(2)]
    assert [heard(reader) for reader in readers] == ["0", "0"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert number.read_text() == "240"


@pytest.mark.parametrize("step", [0.03, 0.0])
def test_busy_shared_holders_do_not_starve_a_measurement(start, step):
    """With steps that overlap and no pause between them, the lock is never free of shared holders by itself."""
    busy = """
said = False
while True:
    with shared("cpu"):
        time.sleep(float(sys.argv[1]))
    if not said:
        say("busy"); said = True
"""
    for process in [start(busy, step), start(busy, step * 1.3)]:
        assert heard(process) == "busy"
    waits = []
    for _ in range(5):
        began = time.perf_counter()
        with device_lock.exclusive("cpu"):
            waits.append(time.perf_counter() - began)
    assert max(waits) < 15  # a step and what the machine's other work takes; starved it would wait for ever


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_killed_process_holds_nothing(start, kind):
    holder = start(HOLD.format(kind=kind))
    assert heard(holder) == "held"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(10)
    with device_lock.exclusive("cpu"):  # the test's timeout is the failure
        pass


def test_a_child_forked_inside_the_hold_does_not_prolong_it(start):
    code = """
with exclusive("cpu"):
    if os.fork() == 0:
        time.sleep(120); os._exit(0)
    say("held")
    os.kill(os.getpid(), 9)
"""
    holder = start(code)
    assert heard(holder) == "held"
    holder.wait(10)
    began = time.perf_counter()
    with device_lock.exclusive("cpu"):
        assert time.perf_counter() - began < 30


def test_a_waiting_process_can_be_interrupted_and_leaves_the_way_free(start):
    holder = start(HOLD.format(kind="shared"))
    assert heard(holder) == "held"
    waiting = start("""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
say("waiting")
try:
    with exclusive("cpu"): pass
except KeyboardInterrupt:
    say("interrupted")
    sys.stdin.readline()
""")
    assert heard(waiting) == "waiting"
    time.sleep(0.3)
    waiting.send_signal(signal.SIGINT)
    assert heard(waiting) == "interrupted"
    with device_lock.shared("cpu"):
        pass


def test_holding_again_in_the_same_thread_is_free():
    with device_lock.shared("cpu"), device_lock.shared("cpu"):
        pass
    with device_lock.exclusive("cpu"), device_lock.exclusive("cpu"), device_lock.shared("cpu"):
        pass
    with device_lock.shared("cpu"), pytest.raises(AssertionError), device_lock.exclusive("cpu"):
        pass
    with device_lock.exclusive("cpu"):  # nothing was left behind
        pass


def test_an_error_inside_releases():
    for kind in (device_lock.shared, device_lock.exclusive):
        with pytest.raises(RuntimeError), kind("cpu"):
            raise RuntimeError
    entered = threading.Event()

    def come() -> None:
        with device_lock.exclusive("cpu"):
            entered.set()

    threading.Thread(target=come, daemon=True).start()
    assert entered.wait(10)


def test_cuda_devices_are_known_by_the_machines_number(monkeypatch, tmp_path):
    monkeypatch.setenv(device_lock.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    with device_lock.shared("cuda:1"), device_lock.shared("cuda"):
        pass
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with device_lock.shared("cuda"):
        pass
    assert sorted(p.name for p in tmp_path.glob("*.lock")) == ["cuda-0.lock", "cuda-1.lock", "cuda-3.lock"]


def test_a_folder_that_another_could_have_prepared_is_refused(monkeypatch, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file", "file/below"):
        monkeypatch.setenv(device_lock.FOLDER_VARIABLE, str(tmp_path / name))
        with pytest.raises(ResourceError, match=device_lock.FOLDER_VARIABLE), device_lock.shared("cpu"):
            pass


def test_a_shared_hold_costs_microseconds():
    costs = []
    for _ in range(300):
        began = time.process_time()
        with device_lock.shared("cpu"):
            pass
        costs.append(time.process_time() - began)
    assert sorted(costs)[len(costs) // 2] < 500e-6
