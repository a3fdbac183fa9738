"""How much C stack a parked G keeps: greenlet copies it with every switch (bridge.h)."""

from __future__ import annotations

from collections.abc import Callable

import greenlet

import gmpy_rt
from gmpy_rt import Chan, Event, Lock, Semaphore, WaitGroup, go, gosched, select, sleep, socket
from gmpy_rt.queue import Queue

# Bytes that the runtime's own frames may add to those of the interpreter and greenlet: 3.14.7t
# has 1,752, and memcpy changes its ways at 2,112 (measured: 320 at most there, 480 on 3.13).
MOST = 512


def depth_of_switch() -> int:
    """Bytes that a greenlet keeps which calls nothing but switch()."""
    parent = greenlet.getcurrent()
    child = greenlet.greenlet(lambda: parent.switch())
    child.switch()
    saved: int = child._stack_saved
    child.switch()
    return saved


def depth_of(park: Callable[[], object]) -> int:
    """Bytes that a G keeps while it is parked in park()."""
    workers: list[greenlet.greenlet] = []

    def parked() -> None:
        workers.append(greenlet.getcurrent())
        park()

    g = go(parked)
    while not g.waiting:
        gosched()
    sleep(0.001)  # another stack lies where its was: now it is saved to its end
    saved: int = workers[0]._stack_saved
    g.cancel()
    g.join()
    return saved


def ways_to_park() -> dict[str, Callable[[], object]]:
    chan: Chan[int] = Chan()
    other: Chan[int] = Chan()
    lock, semaphore, event, group = Lock(), Semaphore(0), Event(), WaitGroup()
    lock.acquire()
    group.add(1)
    queue: Queue[int] = Queue()
    left, right = socket.socketpair()
    sleeper = go(sleep, 3600)
    keep = right

    def recv() -> bytes:
        return left.recv(10) if keep else b""

    return {
        "sleep": lambda: sleep(3600),
        "recv": lambda: chan.recv(),
        "recv, timeout": lambda: chan.recv(timeout=3600),
        "send": lambda: chan.send(1),
        "select": lambda: select(chan, other),
        "select, many": lambda: select(chan, (other, 1), None, timeout=3600),
        "lock": lambda: lock.acquire(),
        "lock, with": lambda: lock.__enter__(),
        "semaphore": lambda: semaphore.acquire(),
        "event": lambda: event.wait(),
        "wait group": lambda: group.wait(),
        "queue": lambda: queue.get(),
        "join": lambda: sleeper.join(),
        "result": lambda: sleeper.result(),
        "socket": recv,
    }


def test_a_parked_g_keeps_little_of_the_c_stack() -> None:
    def main() -> tuple[int, dict[str, int]]:
        plain = depth_of_switch()
        return plain, {name: depth_of(park) - plain for name, park in ways_to_park().items()}

    plain, added = gmpy_rt.run(main, procs=1)
    assert plain > 0
    assert all(n > 0 for n in added.values()), (plain, added)
    assert max(added.values()) <= MOST, (plain, added)
