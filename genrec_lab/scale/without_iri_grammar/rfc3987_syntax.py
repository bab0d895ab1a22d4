"""Stands before the package of this name in the processes of a Ray that is started here.

Every one of Ray's processes imports jsonschema, and that imports rfc3987_syntax, a part of JupyterLab, which
then builds a grammar: 1 s of the 1.5 s that `import ray` takes a core. Ray starts about eight processes at
once, and the first of them must answer within 15 s. Without this package jsonschema leaves one check out, of
international addresses, which Ray does not use.
"""

raise ImportError("rfc3987_syntax is left out of Ray's processes, where it is slow to import and not used")
