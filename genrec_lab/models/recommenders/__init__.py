"""Recommenders over codes, one model per file."""
