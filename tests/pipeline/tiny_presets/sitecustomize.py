"""Stands in for genrec_lab.presets in the kernels and processes that these tests start.

The real presets import every model, which takes seconds a kernel. At its start Python imports a module of
this name from the folders of PYTHONPATH.
"""

import importlib.abc
import importlib.machinery
import sys


class TinyPresets(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds genrec_lab.presets, and makes it a module with a `load` of three fields."""

    def find_spec(self, fullname, path=None, target=None):
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == "genrec_lab.presets" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.load = load


def load(name, overrides=None):
    """A config with a tokenizer and a recommender; refuses other presets and fields as the real one does."""
    from pydantic import BaseModel, ConfigDict

    class Tokenizer(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        levels: int = 3

    class Recommender(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        layers: int = 2

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        name: str
        provenance: str = "made for tests"
        tokenizer: Tokenizer = Tokenizer()
        recommender: Recommender = Recommender()

    if name not in ("tiny", "tiny_again"):
        raise ValueError(f"preset: {name!r} is not known; did you mean 'tiny'?")
    fields = {}
    for dotted, value in (overrides or {}).items():
        part, _, field = dotted.partition(".")
        fields.setdefault(part, {})[field] = value
    return Config(name=name, **fields)


sys.meta_path.insert(0, TinyPresets())
