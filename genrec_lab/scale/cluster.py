"""A connection to Ray: on this machine, or on a cluster at a known address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import genrec_lab

_MEGABYTE = 2**20
_ATTEMPTS = 3
_SAID = 500  # characters of what Ray answered
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage statistics are sent
    "RAY_worker_niceness": "0",  # a run of a sweep comes to the processor as often as one without Ray
    # Its parts wait for each other; on two busy cores they take longer to start than the defaults allow.
    "RAY_agent_register_timeout_ms": "90000",
    "RAY_raylet_start_wait_time_s": "120",
}


class ScaleError(RuntimeError):
    """What Ray lacks or what it could not do, and how to fix it."""


class Cluster(BaseModel):
    """Where the work goes; the defaults are all of this machine."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    address: str | None = Field(
        None, description='of a running cluster, such as "auto" on one of its machines, or "host:6379"'
    )
    processors: int | None = Field(None, ge=1, description="of this machine, without an address; all of them")
    object_store_megabytes: int | None = Field(
        None, ge=80, description="of this machine's memory, without an address; Ray's own choice"
    )


@contextmanager
def connected(cluster: Cluster | None = None) -> Iterator[Any]:
    """Connect to Ray while the block lasts, and give its module; Ray starts here if no address is given.

    Within another such block its connection serves. Raises ScaleError if Ray is not installed, does not
    start, or does not answer at the address.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    cluster = cluster or Cluster()
    if cluster.address is None:
        _start(ray, cluster)
    else:
        _join(ray, cluster.address)
    try:
        yield ray
    finally:
        ray.shutdown()


def require_room(ray: Any, who: str, processors: float, gpus: float) -> None:
    """Raise ScaleError if Ray has less in total, because it would wait for more forever."""
    has = ray.cluster_resources()
    for kind, amount in (("CPU", processors), ("GPU", gpus)):
        if amount > has.get(kind, 0.0):
            raise ScaleError(
                f"{who} need {amount:g} of {kind}, Ray has {has.get(kind, 0.0):g}; use fewer, or give each "
                "less, such as processors=.5"
            )


def _start(ray: Any, cluster: Cluster) -> None:
    """Start Ray on this machine; again where a busy machine kept its parts from finding each other."""
    store = cluster.object_store_megabytes
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _environment("PYTHONPATH", _search_path()):
                ray.init(
                    address="local",
                    num_cpus=cluster.processors,
                    object_store_memory=None if store is None else store * _MEGABYTE,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                )
            return
        except Exception as error:  # Ray raises nothing more special
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise ScaleError(
                    f"Ray did not start in {_ATTEMPTS} attempts ({str(error)[:_SAID]}). Its logs are in "
                    "ray/session_latest/logs of the temporary folder, raylet.err first; often the machine is "
                    "too busy, or has no memory left in /dev/shm"
                ) from error


def _join(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises nothing more special
        raise ScaleError(
            f"no Ray answers at the address {address!r} ({str(error)[:_SAID]}). `ray status` there says "
            "whether one runs; all machines need the same ~/.ray/auth_token and the same versions"
        ) from error


def _search_path() -> str:
    """Where this machine's workers look for modules: in this source first."""
    source = str(Path(genrec_lab.__file__).parents[1])
    given = os.environ.get("PYTHONPATH")
    return f"{source}{os.pathsep}{given}" if given else source


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _ray() -> Any:
    for name, value in _SETTINGS.items():  # read by Ray when it is imported
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ScaleError("Ray is not installed; install the extra: pip install -e '.[scale]'") from error
    return ray
