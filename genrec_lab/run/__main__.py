"""`python -m genrec_lab.run FILE.yaml`: run a chain, as `genrec run FILE.yaml` does."""

import sys

from genrec_lab.lab.__main__ import main

sys.exit(main())
