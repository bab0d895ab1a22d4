"""Recommenders over item ids, one per file, as baselines for generative recommenders."""
