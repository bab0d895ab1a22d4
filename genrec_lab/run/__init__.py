"""The former name of the command: `python -m genrec_lab.run FILE.yaml` is `genrec run FILE.yaml`."""
