"""The error that everything about identifiers raises."""


class CodesError(ValueError):
    """Identifiers, their sizes, or what a conflict policy needs do not fit together."""
