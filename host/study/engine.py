"""Where jobs run: processes here, or a cluster of Ray's or Dask's, all through joblib."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import joblib

from insitu.host.errors import HostError, StudyError

ENGINES = ("processes", "ray", "dask")
#: Environment variables that name a running cluster; without, one is started here with a process a worker.
RAY_ADDRESS, DASK_ADDRESS = "RAY_ADDRESS", "DASK_SCHEDULER_ADDRESS"
#: Jobs given out for each worker: one runs, one waits, so that none waits for a result to be written.
_AHEAD = 2
Job = tuple[Callable[[Any], Any], Any]


class Engine:
    """Runs jobs on `workers` workers. In processes, one worker is this process."""

    def __init__(self, workers: int, return_as: str) -> None:
        self.workers = workers
        self._return_as = return_as

    def results(self, jobs: Iterable[tuple[int, Job]]) -> Iterator[tuple[int, Any, str]]:
        """(number, result, "") of each job, in the order they end; of one that raised, (number, None, why)."""
        calls = (joblib.delayed(_guarded)(number, function, argument) for number, (function, argument) in jobs)
        parallel = joblib.Parallel(
            n_jobs=self.workers, batch_size=1, pre_dispatch=_AHEAD * self.workers, return_as=self._return_as
        )
        if self._return_as != "list":
            yield from parallel(calls)
            return
        while some := list(itertools.islice(calls, self.workers)):
            yield from parallel(some)

    def all(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        """What comes of each argument, in their order. Raises HostError where one raised."""
        found: list[Any] = [None] * len(arguments)
        for number, result, problem in self.results((i, (function, one)) for i, one in enumerate(arguments)):
            if problem:
                raise HostError(problem)
            found[number] = result
        return found


def _guarded(number: int, function: Callable[[Any], Any], argument: Any) -> tuple[int, Any, str]:
    try:
        return number, function(argument), ""
    except Exception as error:  # one trial that fails is no reason to lose the others
        return number, None, f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def opened(name: str, workers: int) -> Iterator[Engine]:
    """An engine by its name. Raises StudyError where what it needs is not installed, or it has no such number of
    workers."""
    if name not in ENGINES:
        raise StudyError(f"engine {name!r}: there are {', '.join(ENGINES)}")
    if workers < 1:
        raise StudyError(f"workers is {workers}: at least 1 is wanted")
    start = {"processes": _processes, "ray": _ray, "dask": _dask}[name]
    try:
        with start(workers) as (backend, return_as), joblib.parallel_config(backend=backend):
            yield Engine(workers, return_as)
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "dask", "distributed"):
            raise
        raise StudyError(f"engine {name!r} needs {error.name}: pip install 'insitu[cluster]'") from error


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[tuple[str, str]]:
    if workers == 1:
        yield "sequential", "generator"
        return
    try:
        yield "loky", "generator_unordered"
    finally:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)


@contextlib.contextmanager
def _dask(workers: int) -> Iterator[tuple[str, str]]:
    from distributed import Client, LocalCluster

    address = os.environ.get(DASK_ADDRESS)
    with contextlib.ExitStack() as stack:
        where: Any = address or stack.enter_context(
            LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            )
        )
        stack.enter_context(Client(where))  # type: ignore[no-untyped-call]
        yield "dask", "generator_unordered"


@contextlib.contextmanager
def _ray(workers: int) -> Iterator[tuple[str, str]]:
    import ray
    from ray.util.joblib import register_ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        local: dict[str, Any] = {} if os.environ.get(RAY_ADDRESS) else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
        register_ray()  # type: ignore[no-untyped-call, unused-ignore]  # ray may be absent
        try:
            yield "ray", "list"  # its backend gives results together only
        finally:
            ray.shutdown()
