"""Every method as a function that returns a typed, validated config, and says where its values come from.

`load("gmc")` gives the paper's sizes, for a GPU; `gmc_cpu` real data on two cores; `gmc_small` the embedded
data in minutes; `utgrec`, `utgrec_code` and `utgrec_small` the same for UTGRec; `baselines` is no method but
all rows that both are compared with. GMC's five variants (Table 4)
are changes to `gmc`, UTGRec's seven (Table 3) to `utgrec`; as rows of a table they are changes to the run's
own method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from genrec_lab.presets.baselines import idgenrec, letter, p5_cid, tiger, tiger_multimodal
from genrec_lab.presets.comparison import baselines, baselines_tiny
from genrec_lab.presets.errors import PresetError, reasons
from genrec_lab.presets.gmc import causal, gmc, gmc_cpu, gmc_small, gmc_tiny, rkmeans
from genrec_lab.presets.method_config import (
    ABLATIONS,
    ROWS,
    AdaptationConfig,
    Change,
    CollaborativeConfig,
    DecodingConfig,
    ItemRow,
    MethodConfig,
    NamingConfig,
    TransferConfig,
    changed,
    item_rows,
    methods,
    variants,
)
from genrec_lab.presets.overrides import dotted, set_key, with_tuples
from genrec_lab.presets.tuning import TuningConfig
from genrec_lab.presets.utgrec import utgrec, utgrec_small, utgrec_tiny
from genrec_lab.registry import did_you_mean

__all__ = [
    "ABLATIONS",
    "ROWS",
    "AdaptationConfig",
    "CollaborativeConfig",
    "DecodingConfig",
    "ItemRow",
    "MethodConfig",
    "NamingConfig",
    "PresetError",
    "TransferConfig",
    "TuningConfig",
    "changed",
    "item_rows",
    "load",
    "methods",
    "names",
    "variants",
]


def _variant(change: Change, of: Callable[[], MethodConfig]) -> Callable[[], MethodConfig]:
    return lambda: change(of())


def _variants(of: Callable[[], MethodConfig], prefix: str) -> dict[str, Callable[[], MethodConfig]]:
    return {name: _variant(change, of) for name, change in ROWS.items() if change and name.startswith(prefix)}


_PRESETS: dict[str, Callable[[], MethodConfig]] = {
    "gmc": gmc,
    "gmc_cpu": gmc_cpu,
    "gmc_small": gmc_small,
    "gmc_tiny": gmc_tiny,
    "tiger": tiger,
    "tiger_multimodal": tiger_multimodal,
    "letter": letter,
    "p5_cid": p5_cid,
    "idgenrec": idgenrec,
    "rkmeans": rkmeans,
    "causal": causal,
    **_variants(gmc, "gmc_"),
    "utgrec": utgrec,
    "utgrec_code": partial(utgrec, "code"),
    "utgrec_small": utgrec_small,
    "utgrec_tiny": utgrec_tiny,
    **_variants(utgrec, "utgrec_"),
    "baselines": baselines,
    "baselines_tiny": baselines_tiny,
}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return tuple(_PRESETS)


def load(name: str, overrides: Mapping[str, Any] | None = None) -> MethodConfig:
    """Return a preset, with overrides by dotted names, as `{"tokenizer.levels": 3}`, or nested.

    Raises PresetError for an unknown preset or key, naming the nearest, and for an impossible value, saying
    what is allowed.
    """
    if name not in _PRESETS:
        raise PresetError(
            f"preset is {name!r}{did_you_mean(name, _PRESETS)}; expected one of {list(_PRESETS)}"
        )
    config = _PRESETS[name]()
    if not overrides:
        return config
    content = config.model_dump()
    for key, value in dotted(overrides).items():
        set_key(content, key, value)
    try:
        return MethodConfig.model_validate(with_tuples(content))
    except ValidationError as error:
        raise PresetError(
            f"preset {name!r} with overrides {dict(overrides)} is impossible:\n{reasons(error)}"
        ) from None
