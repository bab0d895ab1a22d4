"""A connection to Ray: the machine one works on, or a cluster of which the address is known."""

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


class ScaleError(RuntimeError):
    """What Ray lacks or what it could not do, and how to mend it."""


class Cluster(BaseModel):
    """Where the work goes; the defaults are all of this machine."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    address: str | None = Field(
        None, description='of a running cluster, as "auto" on its head node or "ray://host:10001"'
    )
    processors: int | None = Field(None, ge=1, description="of this machine, without an address; all of them")
    object_store_megabytes: int | None = Field(
        None, ge=80, description="of this machine's memory, without an address; Ray's own choice"
    )


@contextmanager
def connected(cluster: Cluster | None = None) -> Iterator[Any]:
    """Connect to Ray while the block lasts, and give its module; Ray starts here where no address is told.

    Within another such block its connection serves. Raises ScaleError where Ray is not installed.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    cluster = cluster or Cluster()
    source = str(Path(genrec_lab.__file__).parents[1])
    # Workers of one machine work with this very source; on a cluster the package is installed beside Ray.
    path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH", "")) if part)
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.address is None:
        options = {
            "num_cpus": cluster.processors,
            "include_dashboard": False,
            "runtime_env": {"env_vars": {"PYTHONPATH": path}},
        }
        if cluster.object_store_megabytes is not None:
            options["object_store_memory"] = cluster.object_store_megabytes * _MEGABYTE
    _begin(ray, options)
    try:
        yield ray
    finally:
        ray.shutdown()


def _begin(ray: Any, options: dict[str, Any]) -> None:
    """Start or join Ray; again where its own parts wait for each other in vain, as on a busy machine."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(log_to_driver=False, logging_level="warning", **options)
            return
        except Exception as error:  # Ray raises nothing more special
            ray.shutdown()
            if attempt == _ATTEMPTS or options.get("address") is not None:
                raise ScaleError(
                    f"Ray did not start ({str(error)[:300]}); see /tmp/ray/session_latest/logs, or, for a "
                    f"cluster, whether its address {options.get('address')!r} answers"
                ) from error


def _ray() -> Any:
    # Read by Ray when it is imported; nobody is told of what is run here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ScaleError("Ray is not installed; install the extra: pip install -e '.[scale]'") from error
    return ray
