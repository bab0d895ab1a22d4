"""Tokenizers: from what is known of items to their codes, a family a file."""
