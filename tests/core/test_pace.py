"""How far a run is, as its metrics' steps say, or a progress bar."""

from __future__ import annotations

import pytest
import tqdm  # type: ignore[import-untyped]

from dbml_magics.core.pace import RunPace
from dbml_magics.core.run_view import RunView
from dbml_magics.results.live import Pace, RunProgress


def run_at(*steps: int) -> RunView:
    view = RunView("r" * 32, "0", "", "me", 0)
    for step in steps:
        view.add_metric("loss", 1.0, step, step)
    return view


def test_steps_and_a_total_tell_how_long_it_will_take() -> None:
    pace = RunPace(total=100)
    assert pace.at(0.0, run_at()) is None, "nothing is logged yet"
    pace.at(1.0, run_at(*range(10)))
    found = pace.at(11.0, run_at(*range(60)))
    assert found == Pace(60, 100, 5.0)
    assert found.told == "step 60 of 100, 5 a second, about 8.0 s left"
    shown = RunProgress("r" * 32, "forest", "wine", "RUNNING", 11.0, pace=found)
    assert "progress    step 60 of 100, 5 a second, about 8.0 s left" in shown.text()
    assert '<progress value="0.600"' in shown.html()


def test_steps_without_a_total_tell_how_fast_it_goes() -> None:
    pace = RunPace()
    pace.at(1.0, run_at(1, 2))
    found = pace.at(2.0, run_at(1, 2, 3, 4))
    assert found is not None
    assert found.told == "step 4, 2 a second"
    assert "<progress" not in RunProgress("r" * 32, "f", "w", "RUNNING", 1.0, pace=found).html()


def test_more_steps_than_were_said_are_all_of_them() -> None:
    found = RunPace(total=3).at(1.0, run_at(0, 1, 2, 3, 4))
    assert found is not None
    assert found.told == "step 3 of 3"


@pytest.mark.parametrize("total", [None, 7])
def test_a_bar_of_tqdms_tells_it_unless_the_total_is_given(total: int | None) -> None:
    pace = RunPace(total)
    with tqdm.tqdm(total=50, unit="epoch", file=open("/dev/null", "w")) as bar:
        bar.update(20)
        with tqdm.tqdm(total=1000, file=bar.fp) as inner:
            inner.update(1)
            found = pace.at(1.0, run_at(0, 1, 2))
    assert found is not None
    if total is None:
        assert (found.done, found.total, found.unit) == (20, 50, "epoch")
        assert found.told.startswith("epoch 20 of 50, ")
    else:
        assert (found.done, found.total) == (3, 7)
    bar.fp.close()
    assert RunPace().at(1.0, run_at(0, 1)) == Pace(2, None, None), "a bar that is over tells nothing"


def test_a_tqdm_of_another_make_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm.tqdm, "_instances", [object()], raising=False)
    assert RunPace().at(1.0, run_at(0, 1)) == Pace(2, None, None)
