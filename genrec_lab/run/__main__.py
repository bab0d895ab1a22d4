"""`python -m genrec_lab.run FILE.yaml`: run a chain, as `genrec run FILE.yaml` does."""

import sys

from genrec_lab.cli import main

sys.exit(main(command="python -m genrec_lab.run", implied=["run"]))
