"""An existing Dask cluster: the connection to it, and a `map` that runs there; needs the `cluster` extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, TypeVar

from vit.errors import InputError

CONNECT_SECONDS = 20
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield a client of the cluster.

    Raises:
        InputError: nothing answers there, the cluster has no worker, or Dask is not installed.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError("dask", address, "left out, without Dask", "pip install 'tilevit[cluster]'") from error
    allowed = "the address of a Dask scheduler that answers, such as tcp://HOST:8786"
    if ":" not in address:
        raise InputError("dask", address, allowed)  # a client would look for it, and complain once more when it is gone
    try:
        client: Any = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError("dask", address, allowed, str(error)) from error
    with client:
        if not client.nthreads():
            raise InputError("dask", address, "a cluster with at least one worker")
        yield client


@contextmanager
def dask_map(address: str) -> Iterator[Callable[[Callable[[Item], Result], Sequence[Item]], Iterator[Result]]]:
    """Yield a `map` whose calls are made by the workers of a cluster; results come in the order of the items.

    What a worker had in hand when it died is done by another one.

    Args:
        address: of the scheduler, such as tcp://10.0.0.1:8786; its workers need tilevit installed.

    Raises:
        InputError: as `connected`; or the cluster goes away while results are awaited.
    """
    with connected(address) as client:

        def mapped(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
            futures = client.map(function, items, pure=False)
            try:
                for future in futures:
                    yield future.result()
            except (OSError, CancelledError) as error:
                raise InputError("dask", address, "a cluster that stays within reach", str(error)) from error

        yield mapped
