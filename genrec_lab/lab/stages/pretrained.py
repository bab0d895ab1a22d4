"""What another run pre-trained, for a run that only transfers it: UTGRec's tokenizer and recommender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genrec_lab.lab.files import RunError
from genrec_lab.lab.keys import differences, told
from genrec_lab.lab.stages.rows import is_universal
from genrec_lab.lab.store import Run, existing_run
from genrec_lab.presets import MethodConfig

# What must be equal, for the weights of one to fit into the other.
_OF_THE_WEIGHTS = ("content", "tokenizer", "recommender")


def pretrained_run(run: Run, config: MethodConfig) -> Run | None:
    """The run that `transfer.start` names, by its name beside this one or by its folder; None where unnamed.

    Raises RunError where there is none, where it is not of UTGRec's kind, or differs in a size of the model.
    """
    named = config.transfer.start
    if named is None or not is_universal(config):
        return None
    folder = Path(named).expanduser() if "/" in named else run.folder.parent / named
    if folder.resolve() == run.folder.resolve():
        raise RunError(f"transfer.start is {named!r}, this very run; name the run that was pre-trained.")
    start = existing_run(folder.name, folder.parent)
    ours, theirs = (
        {name: one.model_dump(mode="json")[name] for name in _OF_THE_WEIGHTS}
        for one in (config, start.config)
    )
    if found := differences(theirs, ours):
        raise RunError(
            f"{config.name} cannot start from run {named!r}, whose weights are of other sizes "
            f"({told(found)}). Give both runs the same preset and overrides."
        )
    return start


def digests_of_start(run: Run, *stages: str) -> dict[str, Any]:
    """Hashes of the outputs of the pre-trained run's stages, for the key of a stage that takes them over.

    Empty where the run starts from no other. Raises RunError where a stage of that run cannot be used.
    """
    start = pretrained_run(run, run.config)
    if start is None:
        if run.config.transfer.start is not None:
            raise RunError(
                f"transfer.start is {run.config.transfer.start!r}, but preset {run.config.name!r} is not of "
                "UTGRec's kind, whose tokenizer can name the items of other runs; leave it out."
            )
        return {}
    for stage in stages:
        start.read_stage(stage)
    return {"start": {stage: start.manifest()["stages"][stage]["digest"] for stage in stages}}
