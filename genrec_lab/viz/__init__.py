"""The lab's visualisations: theme, static figures, maps of residuals, live curves and the explorer."""

import sys
from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

# plotly's renderers, and papermill, import jsonschema, which takes seconds to build a parser for each rule of
# IRIs. No schema of a notebook has an IRI, and jsonschema does without that library.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def kept(function: Function) -> Function:
    """Cache the last 64 results of a function in its first argument, to free them with that object."""

    @wraps(function)
    def cached(owner: Any, *key: Any) -> Any:
        caches = vars(owner).setdefault("_kept", {})
        if function not in caches:
            caches[function] = lru_cache(64)(partial(function, owner))
        return caches[function](*key)

    return cached  # type: ignore[return-value]
