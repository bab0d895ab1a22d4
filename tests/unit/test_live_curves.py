"""Live curves: plain lines or one display updated in place, and a static figure at the end."""

from __future__ import annotations

from typing import Any

import nbclient
import nbformat
import pytest

from genrec_lab.training import EpochRecord, TrainingResult
from genrec_lab.viz import live
from genrec_lab.viz.live import LiveCurves, has_front_end, record_line

PLOTLY = "application/vnd.plotly.v1+json"

TRAINING = """
from genrec_lab.training import EpochRecord, TrainingResult
from genrec_lab.viz.live import LiveCurves
curves = LiveCurves.recommender(users=10)
history = tuple(EpochRecord(e, 3 / e, 1e-3, 9.0, 0.1, {"ndcg@10": 0.01 * e}) for e in range(1, 5))
curves._seconds = 0.0
for record in history:
    curves.on_epoch(record, 4)
curves.on_end(TrainingResult(history, 4, 0.04, False, 1.0))
"""


def epoch(number: int, metrics: dict[str, float] | None = None) -> EpochRecord:
    return EpochRecord(number, 3.0 / number, 1e-3, 100.0, 0.5, metrics or {})


def test_without_a_kernel_it_prints_the_first_and_the_last_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    curves = LiveCurves.recommender(title="GMC")
    for number in range(1, 6):
        curves.on_epoch(epoch(number, {"ndcg@10": 0.01 * number}), 5)
    curves.on_end()
    curves.on_end()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "GMC epoch 1/5  loss 3  NDCG@10 0.0100  100 samples/s  0.5 s",
        "GMC epoch 5  loss 0.6  NDCG@10 0.0500  100 samples/s  0.5 s",
    ]
    assert list(curves.figure.data[1].x) == [1, 2, 3, 4, 5]


def test_epochs_that_are_not_validated_do_not_take_the_lines_of_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(
        range(0, 600, 6)
    )  # seconds: an epoch is shorter than the wait between two lines, two are longer
    monkeypatch.setattr(live.time, "monotonic", lambda: float(next(clock)))
    curves = LiveCurves.recommender()
    for number in range(1, 9):
        curves.on_epoch(epoch(number, {"ndcg@10": 0.1} if number % 2 == 0 else None), 8)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["1/8", "2/8", "4/8", "6/8", "8/8"]


def test_a_resumed_training_brings_the_epochs_of_before(capsys: pytest.CaptureFixture[str]) -> None:
    curves = LiveCurves.recommender()
    curves.on_epoch(epoch(3), 3)
    history = tuple(epoch(number) for number in (1, 2, 3))
    curves.on_end(TrainingResult(history, 3, None, False, 1.0))
    assert list(curves.figure.data[0].x) == [1, 2, 3]


def test_a_look_before_training_is_no_second_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    curves = LiveCurves.recommender()
    curves.on_epoch(epoch(1), 1)
    curves.on_end(TrainingResult((epoch(1), epoch(1)), 1, None, False, 1.0))
    assert capsys.readouterr().out.splitlines() == ["recommender epoch 1/1  loss 3  100 samples/s  0.5 s"]


def test_as_a_context_it_ends_itself_and_takes_tokenizer_records(capsys: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = [
        {
            "epoch": e,
            "loss": 1.0,
            "utilisation": (0.9, 0.75),
            "perplexity": (5.0, 6.0),
            "collision_rate": 0.125,
        }
        for e in (10, 20)
    ]
    with LiveCurves.tokenizer() as curves:
        for record in records:
            curves(record)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "tokenizer epoch 20  loss 1  utilisation 75% to 90%  collisions 12.5%"
    assert len(lines) == 2


def test_the_curves_and_the_line_say_how_many_codes_changed() -> None:
    record: dict[str, Any] = {"utilisation": (0.5, 1.0), "perplexity": (5.0, 6.0), "collision_rate": 0.0}
    first = {**record, "epoch": 1, "churn": None}
    second = {**record, "epoch": 5, "loss": 1.0, "churn": [0.25, 0.125]}
    assert "changed" not in record_line(first)
    assert record_line(second).endswith("up to 25.0% of a level's codes changed")
    curves = LiveCurves.tokenizer(live=False)
    curves(first | {"loss": 2.0})
    curves(second)
    changed = [line for line in curves.figure.data if line.yaxis == "y5"]
    assert [(line.name, list(line.x)[1:], list(line.y)[1:]) for line in changed] == [
        ("level 1", [5], [25.0]),
        ("level 2", [5], [12.5]),
    ]


def test_no_record_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveCurves.tokenizer():
        pass
    assert capsys.readouterr().out == ""


def test_a_line_says_only_what_is_known() -> None:
    assert record_line({"epoch": 2, "loss": None, "metrics": {}}) == "epoch 2"


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, False),
        ({"JPY_SESSION_NAME": "a.ipynb"}, True),
        ({"JPY_SESSION_NAME": "a", "GENREC_LIVE": "0"}, False),
    ],
)
def test_a_front_end_is_known_by_its_signs(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JPY_SESSION_NAME", "VSCODE_CWD", "GENREC_LIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(live, "in_kernel", lambda: True)
    assert has_front_end() is expected
    monkeypatch.setattr(live, "in_kernel", lambda: False)
    assert has_front_end() is False


def test_a_misspelt_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "in_kernel", lambda: True)
    monkeypatch.setenv("GENREC_LIVE", "yes")
    with pytest.raises(ValueError, match="GENREC_LIVE: 'yes', expected '0' or '1'"):
        has_front_end()


@pytest.mark.slow
@pytest.mark.parametrize("looked_at", ["0", pytest.param("1", marks=pytest.mark.nightly)])
def test_in_a_kernel_one_static_figure_remains(looked_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_LIVE", looked_at)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(TRAINING)])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    (figure,) = [output for output in outputs if output.output_type == "display_data"]
    assert (
        figure.data[PLOTLY]["layout"]["title"]["text"]
        == "Validation NDCG@10 is highest at epoch 4 of 4: 0.0400"
    )
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert ("epoch 4" in printed) is (looked_at == "0")
