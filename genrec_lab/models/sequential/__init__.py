"""Recommenders over item ids, a file each: the rows that generative recommenders are compared with."""
