"""This machine: map a function over items, here or in worker processes with one thread each."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from thalweg.errors import ThalwegError


def map(function: Callable[[Any, Any], Any], items: Sequence[Any], *, shared: Any = None, workers: int = 1) -> Iterator[tuple[int, Any]]:
    """Yield (position, function(shared, item)) as results come; in order when workers is 1, which means this process.

    `shared` reaches each worker once, through a private file, whatever its size. Functions and items may be lambdas and objects of a
    script or a notebook. Workers end with their parent, however it ends. Raises ThalwegError when a worker dies.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        for i, item in enumerate(items):
            yield i, function(shared, item)
        return
    import cloudpickle
    import joblib

    with tempfile.TemporaryDirectory(prefix="thalweg-") as folder:
        path = Path(folder) / "shared.pickle"
        with path.open("wb") as file:
            cloudpickle.dump((function, shared), file)
        # items are pickled here, by value where needed: a script's own classes reach the workers too
        tasks = [(str(path), i, cloudpickle.dumps(item), os.getpid()) for i, item in enumerate(items)]
        pool = joblib.Parallel(
            n_jobs=workers, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch="all",
            initializer=_settle, initargs=(os.getpid(),),
        )  # fmt: skip
        try:
            with _deaf_to_interrupts():
                results = pool(joblib.delayed(_work)(*task) for task in tasks)
            yield from results
        except Exception as error:
            if type(error).__name__ in ("TerminatedWorkerError", "BrokenProcessPool"):
                raise ThalwegError(
                    "a worker process died, most often because memory ran out; finished runs are kept: "
                    "run again, or choose --engine solo"
                ) from error
            raise


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in this block never see Ctrl-C, which is for their parent to answer; one that comes meanwhile waits."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started together with the first worker, it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(path: str, position: int, item: bytes, parent: int) -> tuple[int, Any]:
    import cloudpickle
    import torch

    _settle(parent)  # joblib may have work done here, in the parent; then there is nothing to settle
    if os.getpid() != parent:
        torch.set_num_threads(1)
    function, shared = _load(path)
    return position, function(shared, cloudpickle.loads(item))


@functools.lru_cache(maxsize=1)
def _load(path: str) -> Any:
    import cloudpickle

    with open(path, "rb") as file:
        return cloudpickle.load(file)  # written by our parent a moment ago, into a folder that only this user can read


@functools.lru_cache(maxsize=1)
def _settle(parent: int) -> None:
    """In a worker, once: deaf to Ctrl-C for good, and an end when the parent is gone."""
    if os.getpid() == parent:
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
