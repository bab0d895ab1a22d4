"""What was searched for a row's settings, so that a table can say it of every row."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TuningConfig(BaseModel):
    """The search for a row's settings, on validation users only; by default there was none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    trials: int = Field(1, ge=1)  # settings that were trained and compared by the monitor
    space: str = ""  # the settings and values tried, as "training.learning_rate: 1e-3, 3e-3"

    @model_validator(mode="after")
    def _says_what_was_tried(self) -> Self:
        if (self.trials > 1) != bool(self.space.strip()):
            raise ValueError(
                f"tuning.trials is {self.trials} with the space {self.space!r}; name the space of more than "
                "one trial, and none of a single one"
            )
        return self
