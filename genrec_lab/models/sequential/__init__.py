"""Recommenders over item ids, one per file, as baselines for generative recommenders.

>>> from genrec_lab.models.sequential import SASRec
>>> SASRec.Config(width=32).kind
'sasrec'
"""

from genrec_lab.models import __getattr__ as __getattr__  # a model's class, on first access
