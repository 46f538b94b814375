"""The form of every write in the journal, which an older folder and a newer release share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dbml_magics.core.model import operations
from dbml_magics.core.model.operations import (
    KINDS,
    CreateRun,
    LogArtifact,
    LogMetric,
    LogParam,
    Malformed,
    Operation,
    Unknown,
    decode,
    encoded_point,
    point_of,
    read_as,
)
from dbml_magics.core.outbox.lines import Entry, line_of
from dbml_magics.core.run_view import QueueView

# Lines as release 0.2 writes them, without their checksums.
GOLDEN = [
    '[17,"c",{"experiment":"1","user":"me","start":5,"tags":{"mlflow.runName":"größer 🙂"}}]',
    '[17,"t",["databricks"],"dbml_run_id","18426d75"]',
    '[17,"m","loss",0.5,5,1]',
    '[17,"m","loss",NaN,5,0]',
    '[17,"m","loss",-Infinity,5,-3]',
    '[17,"m","acc",0.9,5,0,["m-1","d","g"]]',
    '[17,"m","acc",0.9,5,0,["m-1",null,null]]',
    '[17,"p","depth","7"]',
    '[17,"g","städtchen","größer 🙂"]',
    '[17,"b",[["a",1.0,5,2]],{"x":"y"},{"t":"u"}]',
    '[17,"b",[["a",1.0,5,2,["m-1",null,null]],["a",Infinity,5,3]],{},{}]',
    '[17,"G","k"]',
    '[17,"u",{"status":"FINISHED","end":5,"name":null}]',
    '[17,"u",{"status":null,"end":null,"name":"new"}]',
    '[17,"x",["azureml"]]',
    '[17,"x"]',
    '[17,"r",["databricks","azureml"]]',
    '[17,"r"]',
    '[17,"i",{"datasets":[{"dataset":{"digest":"d0","name":"ds","source":"{}","source_type":"code"},'
    '"tags":{"mlflow.data.context":"train"}}],"models":[]}]',
    '[17,"i",{"datasets":[],"models":["m-1"]}]',
    '[17,"o",{"m-1":3}]',
    '[17,"a",{"owner":"run:r","path":"d/f.txt","data":"aGVsbG8=","size":5}]',
    '[17,"a",{"owner":"run:r","path":"d/empty","data":"","size":0}]',
    '[17,"a",{"owner":"model:m-1","path":"big","spool":"18ecd3944aedd663-9323-9f9f6808","size":10000}]',
    '[17,"K","azureml"]',
    '[17,"L",{"id":"m-1","experiment":"1","name":"net","run":"r","type":"t","params":{"p":"1"},'
    '"tags":{"a":"b"},"created":5}]',
    '[17,"L",{"id":"m-1","experiment":"1","name":"net","run":null,"type":null,"params":{},"tags":{},'
    '"created":5,"foreign_run":"f"}]',
    '[17,"F","m-1","READY"]',
    '[17,"T","m-1",{"z":"1"},["azureml"]]',
    '[17,"T","m-1",{"z":"1"}]',
    '[17,"D","m-1","z",["azureml"]]',
    '[17,"D","m-1","z"]',
    '[17,"P","m-1",{"pp":"2"},["azureml"]]',
    '[17,"P","m-1",{"pp":"2"}]',
    '[17,"X","m-1",["azureml"]]',
    '[17,"X","m-1"]',
    '[17,"E",{"id":"900","name":"iris","tags":{"a":"b"}}]',
    '[17,"E",{"id":"900","name":"iris","tags":{}}]',
    '[17,"E",{"id":"900"}]',
    '[17,"e",{"do":"tag","id":"900","key":"k","value":"v","to":["databricks","azureml"],"tried":false}]',
    '[17,"e",{"do":"tag","id":"900","key":"k","value":null,"to":["azureml"],"tried":true}]',
    '[17,"e",{"do":"untag","id":"900","key":"k","to":["azureml"],"tried":false}]',
    '[17,"e",{"do":"rename","id":"900","name":"y","to":["azureml"],"tried":false}]',
    '[17,"e",{"do":"delete","id":"900","to":["databricks","azureml"],"tried":true}]',
    '[17,"e",{"do":"restore","id":"900"}]',
    '[17,"V",{"key":"f7","name":"wine","source":{"kind":"run","run":"r","path":"d"},"run":"r",'
    '"tags":{"tt":"1"},"run_link":null,"description":null,"to":["databricks"],"after":{}}]',
    '[17,"V",{"key":"f7","name":"wine","source":{"kind":"model","id":"m-1","named":true},"run":null,'
    '"tags":{},"run_link":null,"description":null,"to":["databricks","azureml"],"foreign_run":"f",'
    '"after":{"e6":"r"},"only":"azureml","queue":"r"}]',
    '[17,"W",{"do":"create_model","name":"wine","tags":{"a":"b"},"description":"d","to":["azureml"],"after":{}}]',
    '[17,"W",{"do":"alias","name":"wine","alias":"best","version":"0","of":"f7","tried":true,'
    '"to":["databricks"],"after":{"f7":"r"}}]',
    '[17,"W",{"do":"twins","name":"new","old_name":"wine","to":["databricks","azureml"]}]',
    '[17,"W",{"to":["azureml"],"do":"version_tag","name":"wine","version":"3","own":true,'
    '"key":"dbml_twin","value":"databricks:wine/1"}]',
    '[17,"d","azureml",12]',
    '[0,"?","{{{"]',
]


@pytest.mark.parametrize("line", GOLDEN)
def test_a_line_is_read_and_written_as_it_stands(line: str) -> None:
    given = json.loads(line)
    found = decode(given)
    assert type(found) is found.kind
    assert found.kind in KINDS
    written = found.encode(given[0])
    assert line_of(written)[9:-1].decode() == line
    if line.find("NaN") < 0:
        assert decode(written) == found


def test_every_kind_has_a_line() -> None:
    kinds = {
        each
        for each in vars(operations).values()
        if isinstance(each, type) and issubclass(each, Operation) and not each.__name__.startswith("_")
    }
    assert kinds - {Operation, Malformed, Unknown} == set(KINDS)
    assert {type(decode(json.loads(line))) for line in GOLDEN} == set(KINDS)
    assert len({kind.code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    "line",
    [[17, "Z", {"new": 1}], [17, "Z"], [17, 5], [17, {"a": 1}], [17, "longer", 1]],
    ids=str,
)
def test_a_kind_of_a_newer_release_is_kept_as_it_is(line: list[Any]) -> None:
    found = decode(line)
    assert isinstance(found, Unknown)
    assert found.encode(17) == line
    assert found.describe() == f"a write ({line[1]})"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([17, "m"], "a write (m)"),
        ([17, "p", "k"], "a write (p)"),
        ([17, "c", {"experiment": "1"}], "the run itself"),
        ([17, "a", {"path": "x"}], "a write (a)"),
        ([17, "u", 5], "the run's status or name"),
        ([17, "b", [], {}], "a write (b)"),
        ([17, "F", "m-1"], "the status of a model"),
    ],
    ids=str,
)
def test_a_write_that_lacks_its_fields_is_kept_as_it_is(line: list[Any], words: str) -> None:
    found = decode(line)
    assert isinstance(found, Malformed)
    assert found.kind.code == line[1]
    assert found.encode(17) == line
    assert (found.describe(), found.meant_for("azureml")) == (words, True)
    assert found.label()


@pytest.mark.parametrize("line", [line for line in GOLDEN if '"m",' in line])
def test_the_short_way_of_a_point_is_the_long_one(line: str) -> None:
    given = json.loads(line)
    found = read_as(LogMetric, given)
    assert found is not None
    value, time, step = given[3:6]
    tail = encoded_point(json.dumps(found.key), value, time, step, given[6] if len(given) > 6 else None)
    assert repr(json.loads(f"[17{tail}")) == repr(found.encode(17))
    assert point_of(given) == tuple(given[2:])


def test_a_view_shows_a_point_alike_whichever_way_it_was_folded() -> None:
    points = [json.loads(line) for line in GOLDEN if '"m",' in line]
    views = QueueView("r"), QueueView("r")
    for view in views:
        view.fold(CreateRun("1", "me", 5, {}), 1, "dbml://x", ("file", 0, 1))
    for number, line in enumerate(points):
        views[0].fold_line(Entry("file", number, number + 1, line), "dbml://x")
        views[1].fold(decode(line), 17, "dbml://x", ("file", number, number + 1))
    runs = [view.run for view in views if view.run is not None]
    shown = [{k: [*map(repr, s.values), *s.steps, s.extras] for k, s in run.series.items()} for run in runs]
    assert [*shown[0]] == ["loss", "acc"]
    assert shown[0] == shown[1]


def test_only_lines_of_a_kind_are_read_as_one() -> None:
    line = [17, "p", "depth", "7"]
    assert read_as(LogParam, line) == LogParam("depth", "7")
    assert read_as(LogArtifact, line) is None
    assert read_as(LogParam, None) is None
    assert read_as(LogParam, [17, "p"]) is None
    assert point_of(line) is None
    assert point_of([17, "m", "loss"]) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([0, "m", "loss", 0.5, 1, 2], "metric loss"),
        ([0, "p", "depth", "4"], "param depth"),
        ([0, "G", "note"], "a write (G) note"),
        ([0, "b", [["loss", 0.5, 1, 2]], {"a": "b"}, {}], "2 metrics, params and tags"),
        ([0, "a", {"owner": "run:r", "path": "d/f", "size": 1}], "artifact d/f"),
        ([0, "L", {"name": "net"}], "model net"),
        ([0, "V", {"name": "wine"}], "the registration of wine"),
        ([0, "K", "azureml"], "the earlier files of the run for azureml"),
        ([0, "u", {"status": "FINISHED"}], "a write (u)"),
        ([0, "x"], "a write (x)"),
        ([0, "Z", "new"], "a write (Z) new"),
    ],
)
def test_a_refusal_names_its_write(line: list[Any], said: str) -> None:
    assert decode(line).label() == said
