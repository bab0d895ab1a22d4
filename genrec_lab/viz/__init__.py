"""The lab's visualisations: theme, static figures, maps of residuals, live curves and the explorer."""

import sys

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

# plotly's renderers, and papermill, import jsonschema, which takes seconds to build a parser for each rule of
# IRIs. No schema of a notebook has an IRI, and jsonschema does without that library.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
