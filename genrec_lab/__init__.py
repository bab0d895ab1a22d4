"""genrec_lab: a notebook-first workbench for generative recommendation with semantic identifiers."""

__version__ = "0.2.0"
