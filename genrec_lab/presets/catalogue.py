"""The presets by name, and how a run file's overrides are laid over one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from genrec_lab.presets.baselines import idgenrec, letter, p5_cid, tiger, tiger_multimodal
from genrec_lab.presets.comparison import baselines, baselines_tiny
from genrec_lab.presets.errors import PresetError, reasons
from genrec_lab.presets.gmc import causal, gmc, gmc_cpu, gmc_small, gmc_tiny, rkmeans
from genrec_lab.presets.method_config import ROWS, Change, MethodConfig
from genrec_lab.presets.overrides import dotted, set_key, with_tuples
from genrec_lab.presets.utgrec import utgrec, utgrec_small, utgrec_tiny
from genrec_lab.registry import did_you_mean


def _variant(change: Change, of: Callable[[], MethodConfig]) -> Callable[[], MethodConfig]:
    return lambda: change(of())


def _variants(of: Callable[[], MethodConfig], prefix: str) -> dict[str, Callable[[], MethodConfig]]:
    return {name: _variant(change, of) for name, change in ROWS.items() if change and name.startswith(prefix)}


PRESETS: dict[str, Callable[[], MethodConfig]] = {
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


def load(name: str, overrides: Mapping[str, Any] | None = None) -> MethodConfig:
    """Return a preset, with overrides by dotted names, as `{"tokenizer.levels": 3}`, or nested.

    Raises PresetError for an unknown preset or key, naming the nearest, and for an impossible value, saying
    what is allowed.
    """
    if name not in PRESETS:
        raise PresetError(f"preset is {name!r}{did_you_mean(name, PRESETS)}; expected one of {list(PRESETS)}")
    config = PRESETS[name]()
    if not overrides:
        return config
    content, problems = config.model_dump(), []
    for key, value in dotted(overrides).items():
        try:
            set_key(content, key, value)
        except PresetError as error:
            problems.append(str(error))
    try:
        config = MethodConfig.model_validate(with_tuples(content))
    except ValidationError as error:
        where = f"preset {name!r} with overrides {dict(overrides)} is impossible:"
        raise PresetError(*problems, *reasons(error), where=where) from None
    if problems:
        raise PresetError(*problems)
    return config
