"""Whether the tests run at full size, as `make nightly` asks for."""

import os

AT_NIGHT = os.environ.get("GENREC_NIGHTLY") == "1"
