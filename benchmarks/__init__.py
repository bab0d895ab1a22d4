"""Programs that make the performance figures, each with the peer it compares to: `make bench`."""
