"""What results look like, in text and in HTML."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from IPython.lib.pretty import pretty

from dbml_magics.common.hints import Remedy
from dbml_magics.results.base import HelpText, Result
from dbml_magics.results.best import best_of
from dbml_magics.results.boards import board
from dbml_magics.results.charts import Axis, Chart, Line, sparkline, sparklines
from dbml_magics.results.compare import CompareResult, Curve
from dbml_magics.results.delivery import DeadLetter, DeadLetters, DiscardResult, RetryResult, SyncResult
from dbml_magics.results.endpoints import Deployment, DeployResult, Endpoint
from dbml_magics.results.html import safe
from dbml_magics.results.link import Destination, ExperimentResult, LinkStatus, UiPage, UiResult, UnlinkResult
from dbml_magics.results.pictures import COLOURS, INK, picture, small_curve, ticks
from dbml_magics.results.registry import ModelsResult, ModelVersion, RegisterResult
from dbml_magics.results.runs import MetricSummary, RunRow, RunsResult, TrackSummary
from dbml_magics.results.runs_table import RunsTable
from dbml_magics.results.scoring import ScoreResult, StreamResult, UdfResult
from dbml_magics.results.text import duration, number, when

DATABRICKS = Destination("databricks", "mlflow", "sqlite:///a", "local  .dbml/databricks")
AZUREML = Destination("azureml", "mlflow", "sqlite:///b", "local  .dbml/azureml")
AWAY = replace(AZUREML, pending=1204, away=True, last_error="workspace not reachable (timed out)")
LINK = LinkStatus("dbml:x", "both", "databricks", "journal", (DATABRICKS, AZUREML), "/f", fresh=True)
VERSION = ModelVersion("databricks", "wine", "1", "a" * 32, ("champion",), twin="azureml:wine/3")
ROW = RunRow(
    "a" * 32, "forest", "wine", "FINISHED", 0, 2100, {"depth": "4"}, {"loss": 0.25}, {}, {"azureml": 3}
)
SUMMARY = TrackSummary(
    run_id="a" * 32,
    name="forest",
    experiment="wine",
    status="FINISHED",
    seconds=2.1,
    params={"n_estimators": "20", "max_depth": "4", **{f"p{n}": "x" for n in range(15)}},
    metrics=(
        MetricSummary("training_accuracy_score", 0.9943820, 1),
        MetricSummary("training_f1_score", 0.99438, 1),
    ),
    artifacts=(),
    models=("model",),
    registered=(VERSION,),
    destinations=(DATABRICKS, AZUREML),
)


def _curve(*values: float, start: int = 0) -> Curve:
    return Curve(tuple(float(start + n) for n in range(len(values))), values, len(values))


COMPARED = CompareResult(
    runs=(
        replace(ROW, params={"depth": "4", "seed": "1"}, metrics={"loss": 0.25, "f1": 0.5, "other": 1.0}),
        replace(ROW, run_id="b" * 32, name="boosted", params={"depth": "8", "seed": "1", "rate": "0.1"}),
    ),
    shown=("loss", "f1"),
    curves={"loss": (_curve(1.0, 0.5, 0.25), _curve(0.5, 0.25, start=2)), "f1": (_curve(0.5), Curve())},
    notes=("boosted is still running",),
)


def test_a_link_is_told_as_in_the_guide() -> None:
    assert str(LINK).splitlines() == [
        "Linked: tracking to both, models registered in databricks",
        "  databricks  local  .dbml/databricks   ready",
        "  azureml     local  .dbml/azureml      ready",
        "Next: start a cell that trains with %%track",
    ]


def test_a_status_says_what_waits_and_why() -> None:
    status = LinkStatus(
        "dbml:x",
        "azureml",
        "both",
        "sync",
        (replace(DATABRICKS, tracked=False, dead=1), replace(AWAY, lag_seconds=192.0)),
        "/f",
        experiment="wine",
        notes=("wine version 0 is now version 3",),
    )
    assert str(status).splitlines() == [
        "Tracking to azureml only, models registered in databricks and azureml",
        "  databricks  local  .dbml/databricks   up to date; 1 write refused for good, models only",
        "  azureml     local  .dbml/azureml      1,204 writes waiting: workspace not reachable (timed out), "
        "trying again, the oldest 3 min 12 s old",
        "  experiment  wine",
        "  mode        sync: each write waits for the primary workspace's answer",
        "  wine version 0 is now version 3",
        "%dbml sync waits until everything is delivered · "
        "%dbml sync --dead list shows what was refused, and why",
    ]
    assert replace(AZUREML, pending=1).state() == "1 write on its way"
    assert replace(AZUREML, pending=2).outcome() == "… 2 writes on their way"
    assert replace(AZUREML, away=True).state() == "workspace not reachable, trying again"


def test_a_run_is_summed_up_as_in_the_guide() -> None:
    assert str(SUMMARY).splitlines() == [
        "Run forest  FINISHED in 2.1 s      databricks ✓ delivered   azureml ✓ delivered",
        "  metrics  training_accuracy_score 0.994, training_f1_score 0.994",
        "  models   wine version 1 (databricks)",
        "  params   n_estimators 20, max_depth 4, … 15 more",
        "  run      aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "  see      %dbml runs · %dbml status · %dbml models wine",
    ]


def test_a_run_whose_writes_wait_says_that_nothing_is_lost() -> None:
    waiting = replace(
        SUMMARY,
        name="second",
        seconds=41.0,
        destinations=(DATABRICKS, AWAY),
        params={},
        metrics=(),
        registered=(),
    )
    waiting = replace(waiting, models=())
    assert str(waiting).splitlines() == [
        "Run second  FINISHED in 41.0 s     databricks ✓ delivered   azureml … 1,204 writes waiting: "
        "workspace not reachable (timed out), trying again",
        "  run  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "  nothing is lost: they go out when it answers, from this kernel or the next; "
        "%dbml status shows how far",
    ]


def test_a_run_says_what_was_refused_and_where_it_is() -> None:
    summary = replace(
        SUMMARY,
        destinations=(replace(DATABRICKS, dead=2), replace(AZUREML, tracked=False)),
        links={"databricks": "https://adb/run", "azureml": "javascript:alert(1)"},
        notes=("a param was cut at 500 characters",),
        registered=(replace(VERSION, version="0"),),
    )
    shown = str(summary)
    assert "databricks ✗ 2 writes refused, the rest delivered" in shown.splitlines()[0]
    assert "azureml ✓" not in shown
    assert "  open     databricks https://adb/run" in shown
    assert "wine version not numbered yet (databricks)" in shown
    assert "  a param was cut at 500 characters" in shown
    html = summary.html()
    assert html is not None
    assert '<a href="https://adb/run"' in html
    assert "javascript:" not in html, "only web pages are linked"


def test_a_metric_has_a_small_curve() -> None:
    curve = tuple(float(n) for n in range(100))
    summary = replace(SUMMARY, metrics=(MetricSummary("loss", 99.0, 100, curve),))
    assert "loss 99 ▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"[:10] in str(summary)
    html = summary.html()
    assert html is not None
    assert 'alt="curve of loss: from 0 to 99"' in html
    assert "<svg" not in html, "where a notebook is not trusted, its labels alone would be left"


def test_the_files_of_a_run_are_links_where_they_have_pages() -> None:
    pages = {
        "model/": {"databricks": "https://adb/a", "azureml": "https://aml/b"},
        "x": {"databricks": "https://adb/c"},
    }
    html = replace(SUMMARY, artifacts=("model/", "x", "y<"), artifact_links=pages).html()
    opens = 'target="_blank" rel="noopener">'
    assert (
        f'model/ (<a href="https://adb/a" {opens}databricks</a> · '
        f'<a href="https://aml/b" {opens}azureml</a>), '
        f'<a href="https://adb/c" {opens}x</a>, y&lt;'
    ) in html


def test_runs_have_the_curves_that_this_machine_knows() -> None:
    known = replace(ROW, metrics={"f1": 0.5, "loss": 0.25}, curves={"loss": (1.0, 0.5, 0.25)}, undelivered={})
    runs = RunsResult((known, replace(known, metrics={"f1": 0.75, "loss": 0.5}, curves={})), "wine")
    lines = str(runs).splitlines()
    assert "  loss 0.25 ★ █▃▁, f1 0.5  " in lines[2], "what has a curve comes first"
    assert "  loss 0.5, f1 0.75 ★  " in lines[3]
    html = runs.html()
    assert html.count("<img") == 1
    assert 'alt="curve of loss: from 1 to 0.25"' in html
    assert "loss 0.25 █▃▁" in str(known)
    assert known.html().count("<img") == 1
    table = RunsTable(runs.rows).html()
    assert table.count("<img") == 1


def test_marimo_is_given_html_or_else_text() -> None:
    assert LINK._mime_() == ("text/html", LINK.html())
    retired = UnlinkResult("sqlite:///mlflow.db", "sqlite:///mlflow.db", {})
    assert retired._mime_() == ("text/plain", str(retired)), "an HTML form of None would be shown as nothing"


def test_tables_and_small_pictures_rest_on_no_style_of_the_page() -> None:
    html = SUMMARY.html() + RunsResult((ROW,), "wine").html()
    assert all("padding:" in cell for cell in re.findall(r"<t[hd] [^>]*>", html))
    assert "display:inline-block" in small_curve((0.0, 1.0), "loss"), "some pages make a picture a block"


def test_runs_are_a_table() -> None:
    shown = str(RunsResult((ROW,), "wine", note="3 writes are missing from this list")).splitlines()
    assert shown[0] == "Runs of wine"
    assert shown[1].split() == ["run", "name", "status", "started", "took", "metrics", "params", "delivery"]
    assert re.search(r"aaaaaaaa  forest  FINISHED .* 2.1 s  loss 0.25  depth 4  azureml … 3 writes", shown[2])
    assert shown[3] == "  3 writes are missing from this list"
    assert str(RunsResult((), "wine")).splitlines()[0] == "No runs in wine"
    running = replace(ROW, end_time=None, undelivered={})
    assert "delivery" not in str(RunsResult((running,), "wine"))


def test_runs_are_a_sequence_and_a_frame() -> None:
    runs = RunsResult((ROW,), "wine")
    assert (len(runs), runs[0], list(runs)) == (1, ROW, [ROW])
    pytest.importorskip("pandas")
    assert runs.to_pandas()["metrics.loss"].tolist() == [0.25]


def test_runs_are_compared_in_columns() -> None:
    shown = str(COMPARED).splitlines()
    started = when(0)
    assert shown == [
        "Compared 2 runs of wine",
        "           1 forest          2 boosted",
        "  run      aaaaaaaa          bbbbbbbb",
        "  status   FINISHED          FINISHED",
        f"  started  {started}  {started}",
        "  took     2.1 s             2.1 s",
        "params: 2 differ (≠), 1 equal",
        "  ≠ depth  4                 8",
        "  ≠ rate   —                 0.1",
        "metrics: last values, curves on one scale",
        "  loss     0.25 █▃▁          0.25   ▃▁",
        "  f1       0.5               —",
        "  1 metric left out (other): %dbml compare aaaaaaaa bbbbbbbb --metric other shows one, "
        "to_pandas() has all",
        "  boosted is still running",
    ]


def test_compared_curves_are_drawn_on_shared_axes_and_told_in_words() -> None:
    html = COMPARED.html()
    assert html.count("<figure") == 1, "a single point makes no curve"
    assert "1 forest: from 1 to 0.25 over steps 0 to 2; 2 boosted: from 0.5 to 0.25 over steps 2 to 3" in html
    curves, *samples = svgs(html)
    assert curves.count("stroke-dasharray") == 1, "the second line"
    assert [sample.count("stroke-dasharray") for sample in samples] == [0, 1], "the legend"
    assert "≠ depth" in html
    assert html.count("<script") == 1, "the board's own"
    lines = [Line("a", (0.0, 1.0), (1.0, 1.0)), Line("none", (), ())]
    assert "2 none: no values" in picture(Chart("flat", "step", lines))
    assert sparklines(lines) == ["▁▁", ""]
    huge = Line("huge", (0.0, 1.0, 2.0, 3.0), (-1.7e308, math.nan, 0.0, 1.7e308))
    assert "<polyline" in svgs(picture(Chart("huge", "step", [huge])))[0]
    assert len(huge.stretches) == 2


def svgs(html: str) -> list[str]:
    """Return what the pictures in a page are made of."""
    return [
        base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    ]


def test_values_that_are_not_finite_are_marked_and_told() -> None:
    nan, inf = math.nan, math.inf
    curve = Curve((0.0, 1.0, 2.0, 3.0, 4.0), (1.0, inf, 2.0, nan, nan), 5, 3, lost=3.0)
    assert curve.trouble == "NaN since step 3 (3 points of 5 not finite)"
    drawn = svgs(picture(Chart("loss", "step", [curve.line("loss")])))[0]
    assert drawn.count('d="M0,-4l3.8,6.6h-7.6z"') == 1, "an arrow up"
    assert drawn.count("l6,6m0,-6l-6,6") == 2, "two crosses"
    assert replace(curve, lost=None).trouble == "3 points of 5 not finite"
    assert Curve((0.0,), (1.0,), 1).trouble == ""


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 1.0, "0 0.2 0.4 0.6 0.8 1.0"),
        (-0.02, 0.031, "-0.02 -0.01 0 0.01 0.02 0.03"),
        (0.0, 1e-5, "0 2e-6 4e-6 6e-6 8e-6 1e-5"),
        (12_000.0, 12_500.0, "12,000 12,100 12,200 12,300 12,400 12,500"),
        (0.0, 1e19, "0 2e18 4e18 6e18 8e18 1e19"),
        (7.0, 7.0, "7"),
        (-1.7e308, 1.7e308, "-1e308 0 1e308"),
    ],
)
def test_an_axis_has_round_labels_that_tell_its_values_apart(low: float, high: float, labels: str) -> None:
    assert " ".join(label for _, label in ticks(Axis(low, high), 6)) == labels


@pytest.mark.parametrize("colour", [*COLOURS, INK])
def test_colours_of_pictures_are_seen_on_white_and_on_black(colour: str) -> None:
    def light(written: str) -> float:
        parts = [int(written[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for paper in ("#ffffff", "#1e1e1e", "#111111"):
        dark, bright = sorted((light(colour), light(paper)))
        assert (bright + 0.05) / (dark + 0.05) >= 3


def test_the_script_of_a_board_is_handed_what_it_draws() -> None:
    line = Line(
        "</script><b>&", (0.0, 1.0, 2.0, 1e18), (1 / 3, math.nan, math.inf, -math.inf), (0.0, 1.234, 2.0, 3.0)
    )
    drawn = board([(Chart("loss", "step", [line, Line("b", (0.0, 1.0), (1.0, 2.0))]), safe("loss"))], "run")
    assert "\n" not in drawn
    assert drawn.isprintable()
    assert drawn.count("</script>") == 1
    handed = json.loads(drawn.rpartition("(document.currentScript, ")[2].removesuffix(");</script>"))
    assert handed["key"] == "run"
    assert handed["charts"][0]["lines"][0] == {
        "label": "</script><b>&",
        "x": [0, 1, 2, 1e18],
        "y": [0.333333, "NaN", "inf", "-inf"],
        "t": [0.0, 1.23, 2.0, 3.0],
    }
    assert board([(Chart("loss", "step", [Line("a", (0.0,), (1.0,))]), safe("loss"))]) == ""


def test_a_picture_keeps_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "dapi" + "0123456789abcdef" * 2
    chart = Chart("loss", "param", [Line("loss", (0.0, 1.0), (1.0, 2.0))], ("a", "b"), (token, "other"))
    assert token not in svgs(picture(chart))[0]
    assert "other" in svgs(picture(chart))[0]


def test_compared_runs_are_values_and_a_frame() -> None:
    assert [param.key for param in COMPARED.differing] == ["depth", "rate"]
    assert [(m.key, m.last) for m in COMPARED.metrics] == [
        ("loss", (0.25, 0.25)),
        ("f1", (0.5, None)),
        ("other", (1.0, None)),
    ]
    many = replace(COMPARED, runs=(replace(ROW, params={f"p{n}": "x" for n in range(30)}), ROW))
    assert "  … 11 more differ; to_pandas() has all" in str(many).splitlines()
    pytest.importorskip("pandas")
    assert COMPARED.to_pandas()["params.depth"].tolist() == ["4", "8"]


def test_a_run_shows_all_that_it_logged() -> None:
    lines = str(ROW).splitlines()
    assert lines[0] == "Run forest  FINISHED in 2.1 s"
    assert f"  run      {'a' * 32}" in lines
    assert "  waiting  azureml 3 writes" in lines


def test_models_and_registrations_name_version_twin_and_run() -> None:
    made = str(RegisterResult("wine", "a" * 32, (VERSION,), new_model=True))
    assert made.splitlines()[0] == "Registered wine, a new model"
    assert re.search(r"databricks +1 +champion +aaaaaaaa +azureml:wine/3", made)
    assert made.splitlines()[-1] == "  see  %dbml models wine"
    assert str(ModelsResult(None, ())).splitlines() == [
        "No registered models",
        "  see  %dbml register last NAME",
    ]
    assert str(ModelsResult("wine", ())).splitlines()[0] == "No versions of wine"
    models = ModelsResult(None, (VERSION,))
    assert str(models).startswith("Registered models, the newest version of each")
    assert (len(models), models[0], list(models)) == (1, VERSION, [VERSION])
    assert str(VERSION) == "wine version 1 (databricks)  @champion  twin azureml:wine/3"


def test_addresses_in_what_is_said_are_links() -> None:
    note = "MLflow's UI runs at http://127.0.0.1:5000 (databricks) and <http://b/c>; %dbml ui --stop ends it"
    html = replace(LINK, notes=(note,)).html()
    opens = 'target="_blank" rel="noopener">'
    assert f'runs at <a href="http://127.0.0.1:5000" {opens}http://127.0.0.1:5000</a> (databricks)' in html
    assert f'&lt;<a href="http://b/c" {opens}http://b/c</a>&gt;' in html


def test_syncing_and_unlinking_say_what_remains() -> None:
    assert str(SyncResult({"azureml": 1204}, {}, 3.2)) == (
        "Delivered azureml 1,204 writes in 3.2 s: every workspace is up to date"
    )
    assert str(SyncResult({}, {}, 0.0)) == "Nothing was on its way: every workspace is up to date"
    assert str(SyncResult({"azureml": 1}, {"azureml": 2}, 1.0, {"azureml": 1})).splitlines() == [
        "Delivered azureml 1 write in 1.0 s",
        "  still on their way: azureml 2 writes; %dbml sync goes on",
        "  ✗ refused for good: azureml 1 write; %dbml sync --dead list says why",
    ]
    assert str(UnlinkResult("sqlite:///x", "sqlite:///x", {"databricks": 0, "azureml": 3})).splitlines() == [
        "Unlinked: MLflow tracks to sqlite:///x again",
        "  azureml  … 3 writes waiting",
        "  nothing is lost: this kernel keeps delivering them; %dbml link --again takes the link up again",
    ]


LETTER = DeadLetter(7, "azureml", "a" * 32, "forest", "param depth", "too long", 0)


def test_refused_writes_are_listed_with_their_causes() -> None:
    other = replace(LETTER, number=12, run_id=None, run="", what="tag x", trying=True)
    assert str(DeadLetters((LETTER, other))).splitlines() == [
        "2 writes refused for good; everything else goes on",
        "  number  workspace  run              write        refused           cause",
        f"  7       azureml    forest aaaaaaaa  param depth  {when(0)}  too long",
        f"  12      azureml    —                tag x        {when(0)}  on its way once more; was: too long",
        "  %dbml sync --dead retry tries them again, %dbml sync --dead discard --confirm 2 gives them up",
    ]
    one = DeadLetters((LETTER,), "last")
    assert "--dead discard --run last --confirm 1" in str(one)
    assert str(DeadLetters((), "last")) == "No write of run last was refused"
    assert (len(one), one[0], list(one)) == (1, LETTER, [LETTER])
    assert "… 10 more" in str(DeadLetters((LETTER,) * 40))


def test_what_became_of_refused_writes_is_told() -> None:
    done = RetryResult({"azureml": 2, "databricks": 0}, (LETTER,), (LETTER,), ("azureml: away",))
    assert str(done).splitlines() == [
        "Tried 4 writes again: 2 arrived (azureml 2 writes), 1 refused again, 1 on the way",
        "  ✗ azureml  forest aaaaaaaa  param depth: too long",
        "  azureml: away",
        "  %dbml sync --dead list shows what is refused",
    ]
    assert str(DiscardResult((LETTER,))).splitlines() == [
        "Discarded 1 refused write, for good",
        "  azureml  forest aaaaaaaa  param depth",
    ]


def test_the_pages_of_the_workspaces_are_links() -> None:
    page = UiPage("databricks", "http://127.0.0.1:5000", "started")
    shown = UiResult((page, UiPage("azureml", None, "its address is not known here")), ("it goes on",))
    assert str(shown).splitlines() == [
        "MLflow's UI",
        "  databricks  http://127.0.0.1:5000  started",
        "  azureml                            its address is not known here",
        "  it goes on",
    ]
    assert '<a href="http://127.0.0.1:5000"' in shown.html()
    stopped = UiResult((replace(page, state="stopped"),), stopped=True)
    assert str(stopped).splitlines()[0] == "MLflow's UI is stopped"
    assert "<a " not in stopped.html()
    assert str(UiResult((), stopped=True)) == "MLflow's UI was not running: nothing to stop"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1204, "1,204"),
        (20.0, "20"),
        (0.99438, "0.994"),
        (0.00000032, "3.2e-7"),
        (12345.678, "12,345.7"),
        (2.5, "2.5"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1e19, "1e19"),
        (-1.23456e19, "-1.235e19"),
        (12345678901234567890, "1.235e19"),
        (1e-10, "1e-10"),
        (1e100, "1e100"),
        (999999999999999, "999,999,999,999,999"),
    ],
)
def test_numbers_are_readable(value: float, written: str) -> None:
    assert number(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (2.1, "2.1 s"),
        (41, "41.0 s"),
        (0, "0.0 s"),
        (59.96, "1 min 0 s"),
        (192, "3 min 12 s"),
        (7500, "2 h 5 min"),
        (-1, "0.0 s"),
    ],
)
def test_durations_are_readable(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("curve", "drawn"),
    [
        ((), ""),
        ((1.0,), ""),
        ((1.0, 1.0), "▁▁"),
        ((0.0, 1.0), "▁█"),
        ((1.0, float("nan"), 0.0), "█▁"),
        ((-1.7e308, 1.7e308), "▁█"),
    ],
)
def test_curves_are_drawn_with_what_is_finite(curve: tuple[float, ...], drawn: str) -> None:
    assert sparkline(curve) == drawn
    assert ("<img" in small_curve(curve, "loss")) is bool(drawn)


EVIL = '<script>alert("x")</script>'
STREAM = SimpleNamespace(isActive=True, exception=lambda: EVIL)


class _Checker(HTMLParser):
    """Notes what a reader of the markup needs."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.styles: list[str] = []
        self.unscoped = 0
        self.named = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        given = dict(attrs)
        self.styles.append(given.get("style") or "")
        self.unscoped += tag == "th" and "scope" not in given
        self.named += tag == "caption" or (tag == "table" and bool(given.get("aria-label")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "result",
    [
        replace(LINK, destinations=(replace(DATABRICKS, place=EVIL),), notes=(EVIL,), experiment=EVIL),
        ExperimentResult(EVIL, "1", {EVIL: EVIL}, created=True),
        RunsResult((replace(ROW, name=EVIL, params={EVIL: EVIL}, metrics={EVIL: 1.0}),), EVIL, note=EVIL),
        RunsResult((), EVIL),
        replace(ROW, name=EVIL),
        UiResult((UiPage(EVIL, f"https://x/{EVIL}", EVIL), UiPage(EVIL, "javascript:x", EVIL)), (EVIL,)),
        DeadLetters((replace(LETTER, run=EVIL, what=EVIL, cause=EVIL),), EVIL),
        CompareResult(
            (replace(ROW, name=EVIL, params={EVIL: EVIL, "x": EVIL}), replace(ROW, params={"x": EVIL})),
            (EVIL,),
            {EVIL: (_curve(0.0, 1.0), _curve(1.0, 0.0))},
            (EVIL,),
        ),
        RegisterResult(EVIL, None, (replace(VERSION, name=EVIL, aliases=(EVIL,)),), new_model=False),
        ModelsResult(None, (replace(VERSION, name=EVIL),)),
        ModelsResult(EVIL, ()),
        ScoreResult(EVIL, EVIL, EVIL, EVIL, rows=1, unscored=1, output=EVIL, variable=EVIL, notes=(EVIL,)),
        ScoreResult(EVIL, EVIL, EVIL, EVIL),
        StreamResult(EVIL, EVIL, EVIL, EVIL, STREAM, EVIL, EVIL, EVIL, (EVIL,)),
        UdfResult(EVIL, (EVIL,), EVIL, EVIL, None, (EVIL,)),
        replace(
            SUMMARY,
            name=EVIL,
            params={EVIL: EVIL},
            metrics=(MetricSummary(EVIL, 1.0, 2, (0.0, 1.0)),),
            artifacts=(EVIL,),
            notes=(EVIL,),
            links={EVIL: f"https://x/{EVIL}"},
        ),
    ],
    ids=lambda result: type(result).__name__,
)
def test_html_is_escaped_and_can_be_read_aloud(result: Result) -> None:
    html = result._repr_html_()
    assert html is not None
    assert EVIL not in html
    assert html.count("<script") == html.count('"dbml-board"')
    checker = _Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == [], "every tag is closed"
    assert checker.unscoped == 0, "every header says what it is the header of"
    assert checker.named == checker.tags.count("table"), "every table has a name"
    assert not any("color" in style or "background" in style for style in checker.styles)


@pytest.mark.parametrize(
    "result", [LINK, SUMMARY, RunsResult((ROW,), "wine"), COMPARED, HelpText("help"), VERSION]
)
def test_text_repr_and_pretty_are_one_and_the_same(result: Result) -> None:
    assert repr(result) == str(result) == pretty(result)


def test_scores_say_what_was_done_and_what_to_do_next() -> None:
    lazy = ScoreResult("wine/1", "prediction", "double", "Spark 4.0 (local[*])")
    assert str(lazy).splitlines() == [
        "wine/1 scores lazily, when the result is used, by Spark 4.0 (local[*])",
        "  column  prediction (double)",
        "  see  result.data.show()",
    ]
    kept = replace(lazy, keeping=Remedy("score", "wine/1", input="$sdf", output="scored"))
    assert (
        str(kept).splitlines()[-1]
        == "  see  %dbml score wine/1 --input $sdf --output scored, then scored.show()"
    )
    done = replace(lazy, rows=1204, unscored=2, seconds=3.2, output="table ml.scored", variable="scored")
    assert "Scored 1,204 rows by wine/1 in 3.2 s" in str(done)
    assert "without one  2 rows: the model refused them" in str(done)
    assert len(done) == 1204
    running = StreamResult("wine/1", "p", "double", "Spark", STREAM, "./out", "file:/c", "as rows come")
    assert "Scoring a stream by wine/1" in str(running)
    assert "failed" in str(running)
    udf = UdfResult("wine/1", ("a", "b"), "double", "Spark", lambda *names: names)
    assert udf() == ("`a`", "`b`")
    assert udf("x") == ("x",)
    assert 'frame.withColumn("prediction", udf())' in str(udf)
    assert not hasattr(udf, "nonsense")


def test_html_has_the_words_of_the_text() -> None:
    for result in (LINK, RunsResult((ROW,), "wine"), COMPARED, SUMMARY):
        html = result._repr_html_()
        assert html is not None
        words = set(re.sub(r"<[^>]*>", " ", html).split())
        missing = {word for word in str(result).split() if word not in words and word.isalpha()}
        assert not missing


@pytest.mark.parametrize(
    ("key", "values", "best"),
    [
        ("val_loss", [0.3, 0.1, None], 1),
        ("RMSE", [2.0, 1.0], 1),
        ("test/roc_auc", [0.8, float("nan"), 0.9], 2),
        ("f1", [0.5, 0.4], 0),
        ("r2_score", [0.5, 0.5], None),
        ("learning_rate", [0.1, 0.2], None),
        ("loss_score", [0.1, 0.2], None),
        ("loss", [0.1, None], None),
    ],
)
def test_the_best_value_of_a_metric_is_found_by_its_name(
    key: str, values: list[float | None], best: int | None
) -> None:
    assert best_of(key, values) == best


def test_runs_are_compared_in_one_table_with_the_best_values_marked() -> None:
    runs = tuple(
        RunRow(letter * 32, name, "wine", "FINISHED", 0, 2100, {"depth": letter}, {"loss": loss})
        for letter, name, loss in (("a", "forest", 0.25), ("b", "boosted", 0.125))
    )
    result = CompareResult(runs, ("loss",), {"loss": (Curve(), Curve())})
    assert "0.125 ★" in result.text()
    assert "0.25 ★" not in result.text()
    assert result.html().count("<table ") == 1


@pytest.mark.parametrize(
    ("amount", "more", "said"),
    [
        (None, False, "No runs in wine"),
        (0, False, "No runs in wine"),
        (1, False, "No run fits loss < 1; 1 run is in wine"),
        (12, False, "No run fits loss < 1; 12 runs are in wine"),
        (200, True, "No run fits loss < 1; 200 runs or more are in wine"),
    ],
)
def test_no_runs_by_a_filter_is_not_no_runs(amount: int | None, more: bool, said: str) -> None:
    found = RunsResult((), "wine", filter="loss < 1", amount=amount, more=more, unfiltered=Remedy("runs"))
    assert str(found).splitlines()[0] == said
    assert said.replace("<", "&lt;") in str(found.html())


def test_long_names_do_not_widen_a_table() -> None:
    long = "n" * 90
    row = replace(ROW, name=long, params={long: long}, metrics={long: 1e19})
    for shown in (str(RunsResult((row,), "wine")), str(RunsTable((row, replace(row, params={long: "x"}))))):
        assert f"{'n' * 39}…" in shown
    assert f"{'n' * 39}… 1e19" in str(RunsResult((row,), "wine"))
    assert long not in str(RunsResult((row,), "wine"))


@pytest.mark.parametrize(
    ("deployment", "said"),
    [("iris", "Updated iris on local to iris/2 in 2.0 s"), ("green", "Updated deployment green of iris on")],
)
def test_an_update_names_each_thing_once(deployment: str, said: str) -> None:
    endpoint = Endpoint(
        "iris", "local", "ready", None, "key", (Deployment("iris", "iris/2", "ready", 100, "282 MB"),)
    )
    shown = str(DeployResult(endpoint, deployment, "iris/2", 2.0, changed="updated"))
    assert shown.startswith(said)
    assert "  authentication  key" in shown
    assert "1 × 282 MB memory" in shown
