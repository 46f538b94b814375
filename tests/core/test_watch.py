"""A run watched while it goes on: its curves as they grow, whatever is logged."""

from __future__ import annotations

import math
import random
from io import BytesIO
from pathlib import Path

import mlflow
import pytest
from PIL import Image

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.run_view import Series
from dbml_magics.core.watch import _BUCKETS, _Growing
from dbml_magics.results.live import LiveMetric, RunProgress


@pytest.fixture
def linked(home: Path) -> session.Session:
    current = session.current()
    dbml.link(local=True)
    return current


def metric(progress: RunProgress, key: str) -> LiveMetric:
    return next(each for each in progress.metrics if each.key == key)


def test_a_look_shows_what_is_logged_so_far(linked: session.Session) -> None:
    dbml.experiment("wine")
    track = linked.begin_track("forest")
    begun = track.look()
    assert (begun.name, begun.status, begun.experiment, begun.metrics) == ("forest", "RUNNING", "wine", ())
    mlflow.log_params({"depth": 3})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metric("accuracy", 0.9)
    seen = track.look()
    assert dict(seen.params) == {"depth": "3"}
    loss = metric(seen, "loss")
    assert (loss.last, loss.curve.count, loss.curve.axis) == (0.2, 5, "step")
    assert loss.curve.steps == (0, 1, 2, 3, 4)
    assert loss.curve.values == (1, 1 / 2, 1 / 3, 1 / 4, 1 / 5)
    assert not metric(seen, "accuracy").drawable
    assert [place.name for place in seen.destinations] == ["databricks", "azureml"]
    mlflow.log_metric("loss", 0.1, step=5)
    assert metric(track.look(), "loss").curve.count == 6
    mlflow.log_metric("loss", 0.05, step=6)
    track.end()
    assert metric(track.look(), "loss").last == 0.05, "the last points are seen, delivered or not"


def picture(size: int, kind: str = "PNG") -> bytes:
    """Return an image of noise, which no format makes small."""
    out = BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(0).randbytes(size * size * 3)).save(out, kind)
    return out.getvalue()


def test_images_are_seen_though_they_have_left_this_machine(linked: session.Session, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"x" * 50_000)
    (tmp_path / "large.png").write_bytes(picture(600))
    (tmp_path / "small.jpg").write_bytes(picture(40, "JPEG"))
    track = linked.begin_track("forest")
    mlflow.log_text("a note", "note.txt")
    for name in ("broken.png", "large.png", "small.jpg"):
        mlflow.log_artifact(str(tmp_path / name), "plots")
        (tmp_path / name).unlink()
    dbml.sync(60)
    files = track.look().files
    assert [file.path for file in files] == [
        "plots/small.jpg",
        "plots/large.png",
        "plots/broken.png",
        "note.txt",
    ]
    assert files[1].size > 1_000_000
    assert [file.picture.partition(";")[0] for file in files] == [
        "data:image/jpeg",
        "data:image/jpeg",
        "",
        "",
    ]
    assert len(files[1].picture) < 50_000, "a large image is made small"
    track.end()


def test_a_run_keeps_its_last_images_alone(linked: session.Session, tmp_path: Path) -> None:
    track = linked.begin_track("forest")
    (tmp_path / "a.png").write_bytes(picture(10))
    for number in range(30):
        mlflow.log_artifact(str(tmp_path / "a.png"), f"{number}")
    files = track.look().files
    assert [file.path for file in files if file.picture] == [
        f"{number}/a.png" for number in range(29, 23, -1)
    ]
    assert len(files) == 20
    track.end()


def test_what_a_workspace_lacks_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_LINGER", "60")
    linked = session.current()
    dbml.link(local=True)
    track = linked.begin_track()
    mlflow.log_metric("loss", 1.0)
    assert all(place.pending for place in track.look().destinations)
    track.end()


def series(values: list[float], steps: list[int] | None = None) -> Series:
    found = Series()
    for place, value in enumerate(values):
        found.add(value, place, place if steps is None else steps[place])
    return found


def test_a_long_curve_keeps_its_spikes_and_stays_short() -> None:
    values = [math.sin(n / 500) for n in range(10_000)]
    values[7777], values[1234] = 9.0, -9.0
    grown = _Growing(series(values)).grown()
    assert grown.count == 10_000
    assert len(grown.values) <= 2 * _BUCKETS + 2
    assert (max(grown.values), min(grown.values)) == (9.0, -9.0)
    assert list(grown.steps) == sorted(grown.steps)


def test_a_smooth_curve_is_no_staircase_and_ends_where_it_ends() -> None:
    values = [math.sin(n / 20) for n in range(200)]
    grown = _Growing(series(values)).grown()
    assert all(value == values[int(step)] for step, value in zip(grown.steps, grown.values, strict=True))
    assert len(set(grown.steps)) == len(grown.steps), "each point has a step of its own"
    assert (grown.steps[0], grown.steps[-1]) == (0, 199)
    falling = _Growing(series([-float(n) for n in range(10_000)])).grown()
    assert (falling.steps[0], falling.steps[-1]) == (0, 9_999)


def test_steps_that_went_back_once_are_no_axis() -> None:
    steps = list(range(5_000))
    steps[2_000] = 7
    grown = _Growing(series([math.sin(n / 500) for n in range(5_000)], steps)).grown()
    assert (grown.axis, grown.steps[-1]) == ("point", 4_999)


def test_looking_often_shows_the_same_as_looking_once() -> None:
    values = [math.cos(n / 70) for n in range(3_000)]
    whole = _Growing(series(values)).grown()
    growing = _Growing(found := Series())
    for place, value in enumerate(values):
        found.add(value, place, place)
        if place % 37 == 0:
            growing.grown()
    assert growing.grown() == whole


def test_points_that_are_not_finite_are_counted_and_kept_as_marks() -> None:
    grown = _Growing(series([1.0, math.nan, 3.0, math.inf, -math.inf, 2.0])).grown()
    assert (grown.count, grown.odd) == (6, 3)
    assert [value for value in grown.values if math.isfinite(value)] == [1.0, 3.0, 2.0]
    assert (grown.steps, grown.lost) == ((0, 1, 2, 3, 4, 5), None)
    huge = _Growing(series([1.7e308, 1.7e308, 1.6e308])).grown()
    assert (huge.odd, len(huge.values)) == (0, 3)


def test_a_curve_that_is_lost_says_since_when() -> None:
    values = [1.0 / (n + 1) for n in range(5_000)] + [math.nan] * 3_000
    values[77] = math.inf
    growing = _Growing(found := Series(), began=-4_000)
    for place, value in enumerate(values):
        found.add(value, place * 1_000, place)
        if place % 173 == 0:
            growing.grown()
    grown = growing.grown()
    assert (grown.lost, grown.odd, grown.count) == (5_000, 3_001, 8_000)
    assert math.isnan(grown.values[-1])
    assert math.inf in grown.values, "a gap that was long ago is still marked"
    assert len(grown.values) <= 3 * _BUCKETS + 3
    assert grown.times == tuple(step + 4 for step in grown.steps), "seconds since the run began"
    assert _Growing(series([math.nan, math.nan])).grown().lost == 0


def test_without_steps_a_curve_goes_by_its_points() -> None:
    grown = _Growing(series([3.0, 2.0, 1.0], steps=[0, 0, 0])).grown()
    assert (grown.axis, grown.steps) == ("point", (0, 1, 2))
    back = _Growing(series([3.0, 2.0, 1.0], steps=[5, 9, 1])).grown()
    assert (back.axis, back.steps) == ("point", (0, 1, 2))
