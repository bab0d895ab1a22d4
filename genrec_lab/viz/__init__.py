"""The lab's visualisations: theme, static figures, maps of residuals, live curves and the explorer."""

import sys

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# plotly's renderers, and papermill, import jsonschema, which takes seconds to build a parser for each rule of
# IRIs. No schema of a notebook has an IRI, and jsonschema does without that library.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
