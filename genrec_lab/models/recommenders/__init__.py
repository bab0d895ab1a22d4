"""Recommenders over codes: a model a file."""
