"""Scoring without Spark: small pandas frames in this process, their types, nulls and refusals."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

import dbml_magics as dbml
from dbml_magics.core.model.mlmodel import ColumnSpec
from dbml_magics.core.scoring import carried, columns, types
from dbml_magics.core.scoring.carried import batches
from dbml_magics.core.scoring.carried.answered import spoken
from dbml_magics.core.scoring.carried.plan import Plan
from dbml_magics.results.scoring import ScoreResult
from tests.core.linking import child, finish
from tests.core.scoring import Deaf, Picky, X, linear, loaded, log, log_telling, save

# MLflow about models whose predict has no type hints.
pytestmark = pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method:UserWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home and folder that these tests share."""
    place = tmp_path_factory.mktemp("score")
    (place / "work").mkdir()
    return place


@pytest.fixture(autouse=True)
def _linked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_HOME", str(place / "home"))
    monkeypatch.chdir(place / "work")
    dbml.link(local=True)


@pytest.fixture
def wine(place: Path) -> str:
    """Return the name of a linear model, registered once."""
    if not (place / "registered").exists():
        log(linear(), infer_signature(X, linear().predict(X)), registered_model_name="wine")
        (place / "registered").touch()
    return "wine/1"


def scored(model: str, data: Any, **wishes: Any) -> ScoreResult:
    result = dbml.score(model, data, **wishes)
    assert isinstance(result, ScoreResult)
    return result


def test_a_small_frame_is_scored_here_to_the_bit_and_no_java_is_started(wine: str) -> None:
    result = scored(wine, X)
    assert result.engine == "this process, without Spark"
    assert result.data.prediction.tolist() == loaded(wine).predict(X).tolist()
    assert list(result.data.index) == list(X.index)
    assert list(result.data.columns) == ["depth", "rate", "prediction"]
    assert list(X.columns) == ["depth", "rate"], "the notebook's own frame is as it was"
    assert len(result) == len(X)
    assert "Scored 4 rows by wine/1" in str(result)
    assert "this process, without Spark" in str(result)
    assert (result._repr_html_() or "").count("<table") >= 1


@pytest.mark.full
def test_scoring_a_frame_starts_no_java(wine: str, place: Path) -> None:
    printed = finish(
        child(
            f"""
            import sys, pandas as pd, dbml_magics as dbml
            dbml.link(local=True)
            frame = pd.DataFrame({{"depth": [1.0], "rate": [2.0]}})
            value = dbml.score({wine!r}, frame).data.prediction[0]
            spark = sys.modules.get("pyspark")  # MLflow itself imports it
            print(value, spark is None or spark.SparkContext._gateway is None)
            """,
            cwd=place / "work",
        )
    )
    assert printed.splitlines()[-1].split()[1] == "True"


def test_columns_may_stand_in_any_order_among_others(wine: str) -> None:
    expected = loaded(wine).predict(X).tolist()
    other = X[["rate", "depth"]].assign(label=list("abcd"), when=pd.Timestamp("2024-01-01"))
    result = scored(wine, other).data
    assert result.prediction.tolist() == expected
    assert list(result.columns) == ["rate", "depth", "label", "when", "prediction"]
    named = X.rename(columns={"depth": "Tiefe", "rate": "Rate"})
    renamed = scored(wine, named, columns="Tiefe,Rate")
    assert renamed.data.prediction.tolist() == expected
    assert any("Tiefe as depth" in note for note in renamed.notes)
    assert scored(wine, X.rename(columns=str.upper)).data.prediction.tolist() == expected, "case is no matter"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("narrower floats", X.astype("float32")),
        ("whole numbers", X.assign(depth=[0, 1, 2, 3], rate=[4, 5, 6, 7])),
        ("small whole numbers", X.assign(depth=np.arange(4, dtype="int8"))),
        ("unsigned ones", X.assign(depth=np.arange(4, dtype="uint32"))),
        ("pandas' own integers", X.assign(depth=pd.array([0, 1, 2, 3], dtype="Int64"))),
        ("a category", X.assign(depth=pd.Categorical([0.0, 1.0, 0.0, 1.0]))),
    ],
)
def test_numbers_of_other_widths_are_the_models(wine: str, kind: str, values: pd.DataFrame) -> None:
    expected = loaded(wine).predict(values.astype("float64")).tolist()
    assert scored(wine, values).data.prediction.tolist() == expected, kind


def test_a_wider_type_than_the_signatures_is_rounded_and_said_so_or_refused_when_it_does_not_fit() -> None:
    schema = Schema([ColSpec("float", "a"), ColSpec("integer", "n")])
    model = log(Picky(), ModelSignature(schema, Schema([ColSpec("double")])))
    frame = pd.DataFrame({"a": [0.1, 0.2], "n": np.array([3, 4], dtype="int64")})
    result = scored(model, frame)
    assert result.data.prediction.tolist() == [3 + float(np.float32(0.1)), 4 + float(np.float32(0.2))]
    assert any("a is double and is rounded" in note for note in result.notes)
    assert (
        scored(model, frame.assign(n=[3.0, 4.0])).data.prediction.tolist() == result.data.prediction.tolist()
    )
    with pytest.raises(dbml.ScoringFailed, match=r"n: .*out of bounds|n: .*not in range"):
        scored(model, frame.assign(n=[3, 2**40]))
    with pytest.raises(dbml.ScoringFailed, match=r"n: .*truncated"):
        scored(model, frame.assign(n=[3.5, 4.0]))
    kept = scored(model, frame.assign(n=[3, 2**40]), on_error="null")
    assert kept.data.prediction.isna().tolist() == [False, True]
    assert kept.unscored == 1
    assert any("refused: ValueError: column n" in note for note in kept.notes)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (X.drop(columns="rate"), r"lacks 1 of the model's 2 columns: 'rate' \(double"),
        (X.rename(columns={"rate": "rates"}), "is it 'rates' here?"),
        (X.assign(rate="high"), "rate is string, and the model wants double"),
        (X.assign(rate=pd.Timestamp("2024-01-01")), "rate is timestamp, and the model wants double"),
        (X.assign(rate=True), "rate is boolean, and the model wants double"),
        (pd.concat([X, X[["rate"]]], axis=1), "more than one column rate"),
        ([1, 2, 3], "a list is not scored"),
    ],
)
def test_data_that_is_not_the_models_is_refused_before_anything_runs(
    wine: str, frame: Any, said: str
) -> None:
    with pytest.raises(dbml.BadData, match=said):
        scored(wine, frame)


def test_a_column_of_the_predictions_name_is_not_overwritten(wine: str) -> None:
    frame = X.assign(prediction=1.0, Prediction_2=2.0)
    with pytest.raises(dbml.BadCommand, match="a column prediction already") as raised:
        scored(wine, frame)
    assert raised.value.remedies[0][0] == "%dbml score MODEL --as prediction_3"
    assert list(scored(wine, frame, column="quality").data.columns)[-1] == "quality"


def test_arrays_dicts_and_records_are_frames_too(wine: str) -> None:
    expected = loaded(wine).predict(X).tolist()
    for data in (X.to_numpy(), X.to_dict("list"), X.to_dict("records")):
        assert scored(wine, data).data.prediction.tolist() == expected


def test_an_empty_frame_has_no_predictions(wine: str) -> None:
    result = scored(wine, X.head(0))
    assert list(result.data.columns) == ["depth", "rate", "prediction"]
    assert len(result.data) == 0


# --- rows that the model refuses


@pytest.fixture(scope="module")
def holes() -> pd.DataFrame:
    """Return many rows, some with nulls, some that the model below refuses for their values."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.random(3000), "n": rng.integers(0, 9, 3000)})
    frame.loc[::7, "a"] = np.nan
    frame.loc[[5, 1234, 2999], "a"] = -1.0
    return frame


def test_a_refused_row_fails_the_job_or_gets_null_and_the_others_their_predictions(
    holes: pd.DataFrame,
) -> None:
    model = log(Picky(), ModelSignature(Schema([ColSpec("double", "a"), ColSpec("long", "n")])))
    with pytest.raises(dbml.ScoringFailed, match=r"did not score: ValueError: (nan|negative)") as raised:
        scored(model, holes)
    assert raised.value.remedies[0][0] == f"%dbml score {model} --on-error null"
    result = scored(model, holes, on_error="null", result_type="double")
    refused = holes.a.isna() | (holes.a < 0)
    assert result.data.prediction.isna().equals(refused)
    assert result.data.prediction[~refused].tolist() == (holes.a + holes.n)[~refused].tolist()
    assert result.unscored == int(refused.sum())
    assert "without one" in str(result)


def test_a_null_where_a_whole_number_is_wanted_is_a_refused_row_and_large_numbers_stay_exact() -> None:
    schema = Schema([ColSpec("long", "n")])
    model = log(Picky(column="n"), ModelSignature(schema, Schema([ColSpec("long")])))
    large = 2**62 + 1
    frame = pd.DataFrame({"n": pd.array([large, None, 3], dtype="Int64")})
    with pytest.raises(dbml.ScoringFailed, match="column n has a null, and the model wants int64"):
        scored(model, frame)
    result = scored(model, frame, on_error="null").data.prediction
    assert [None if pd.isna(each) else int(each) for each in result] == [large, None, 3]


def test_a_model_that_refuses_every_row_fails_all_the_same(holes: pd.DataFrame) -> None:
    model = log(Picky(always=True), ModelSignature(Schema([ColSpec("double", "a"), ColSpec("long", "n")])))
    with pytest.raises(dbml.ScoringFailed, match="refuses every row: ValueError: never"):
        scored(model, holes.assign(a=1.0), on_error="null")


# --- what models take and give


def test_results_are_of_the_signatures_type_or_of_the_one_that_is_asked_for() -> None:
    classes = log(
        Picky(answer="class"), ModelSignature(Schema([ColSpec("double", "a")]), Schema([ColSpec("string")]))
    )
    frame = pd.DataFrame({"a": [0.25, 0.75]})
    assert scored(classes, frame).data.prediction.tolist() == ["low", "high"]
    silent = log(Picky(column="a"), ModelSignature(Schema([ColSpec("double", "a")])))
    assumed = scored(silent, frame)
    assert assumed.data.prediction.tolist() == [0.25, 0.75]
    assert assumed.result_type == "double", "as the model gives it"
    assert scored(silent, frame, result_type="string").data.prediction.tolist() == ["0.25", "0.75"]
    narrow = scored(silent, frame, result_type="float").data.prediction
    assert (narrow.dtype, narrow.tolist()) == (np.dtype("float32"), [0.25, 0.75])
    with pytest.raises(dbml.ScoringFailed, match="the model gives double, and int was asked for") as raised:
        scored(silent, frame, result_type="int")
    assert raised.value.remedies[0][0] == f"%dbml score {silent} --result-type double"
    with pytest.raises(dbml.ScoringFailed, match="the model gives string, and double was asked for"):
        scored(classes, frame, result_type="double")


def test_several_values_a_row_are_arrays_or_structs() -> None:
    frame = pd.DataFrame({"a": [0.25, 0.75]})
    inputs = Schema([ColSpec("double", "a")])
    tensor = Schema([TensorSpec(np.dtype("float64"), (-1, 2))])
    pairs = log(Picky(answer="pair"), ModelSignature(inputs, tensor))
    assert [list(each) for each in scored(pairs, frame).data.prediction] == [[0.25, 0.5], [0.75, 1.5]]
    with pytest.raises(dbml.ScoringFailed, match="2 values a row") as raised:
        scored(pairs, frame, result_type="double")
    assert raised.value.remedies[0][0] == f"%dbml score {pairs} --result-type array<double>"
    both = Schema([ColSpec("double", "one"), ColSpec("string", "word")])
    table = log(Picky(answer="frame"), ModelSignature(inputs, both))
    expected = [{"one": 0.25, "word": "low"}, {"one": 0.75, "word": "high"}]
    assert scored(table, frame).data.prediction.tolist() == expected
    assert (
        scored(table, frame, result_type="struct<one: double, word string>").data.prediction.tolist()
        == expected
    )
    flat = Schema([TensorSpec(np.dtype("float64"), (-1,))])
    single = log(Picky(column="a"), ModelSignature(inputs, flat))
    assert scored(single, frame).data.prediction.tolist() == [0.25, 0.75], "a value a row, not a list of one"


def test_arrays_go_in_as_columns_or_as_one() -> None:
    square = Schema([TensorSpec(np.dtype("float32"), (-1, 2))])
    model = log(Picky(answer="sum"), ModelSignature(square, Schema([TensorSpec(np.dtype("float32"), (-1,))])))
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0], "label": ["a", "b"]})
    assert scored(model, frame, columns=["x", "y"]).data.prediction.tolist() == [4.0, 6.0]
    lists = pd.DataFrame({"both": [[1.0, 3.0], [2.0, 4.0]]})
    assert scored(model, lists).data.prediction.tolist() == [4.0, 6.0]
    with pytest.raises(dbml.BadData, match="takes 2 columns that have no names"):
        scored(model, frame)


def test_a_model_without_a_signature_is_given_the_columns_that_are_named() -> None:
    model = log(Picky(answer="columns"), None)
    frame = pd.DataFrame({"b": [1.0], "a": [2.0]})
    assert scored(model, frame, result_type="string").data.prediction.tolist() == ["b,a"]
    assert scored(model, frame, columns="a", result_type="string").data.prediction.tolist() == ["a"]


def test_moments_and_texts_arrive_as_they_are() -> None:
    schema = Schema([ColSpec("datetime", "at"), ColSpec("string", "word"), ColSpec("boolean", "yes")])
    model = log(Picky(answer="text"), ModelSignature(schema, Schema([ColSpec("string")])))
    at: list[Any] = [datetime.datetime(2024, 5, 17, 12, 30, 15, 250), None]
    frame = pd.DataFrame({"at": pd.to_datetime(at), "word": ['é\n"', None], "yes": [True, False]})
    assert scored(model, frame).data.prediction.tolist() == [
        '2024-05-17 12:30:15.000250|é\n"|True',
        f"NaT|{frame.word.tolist()[1]}|False",  # as this pandas has a text that is missing
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**53 + 1, "bigint"),
        (True, "boolean"),
        ("007", "string"),
        (Decimal("1.10"), "decimal(3,2)"),
        (b"\x00\xff", "binary"),
        (datetime.date(2024, 5, 17), "date"),
        (np.float32(0.1), "float"),
        (np.int8(7), "tinyint"),
    ],
)
def test_without_a_signature_values_and_their_types_are_seen_and_kept(
    silent: str, value: Any, kind: str
) -> None:
    plain = isinstance(value, np.generic)
    values = np.array([value, value]) if plain else pd.Series([value, None], dtype=object)
    result = scored(silent, pd.DataFrame({"a": values}))
    assert (result.result_type, result.data.prediction[0]) == (kind, value)
    assert type(result.data.prediction[0]) in (type(value), np.int64)
    assert plain or result.unscored == 1


@pytest.fixture(scope="module")
def silent(place: Path) -> str:
    """Return the folder of a model without a signature, which gives what it gets."""
    return save(Picky(column="a"), place / "silent")


def test_a_model_without_a_signature_gets_the_frames_own_values(place: Path) -> None:
    model = save(Picky(answer="repr"), place / "repr")
    large = 2**53 + 1
    days: list[Any] = ["2024-05-17", None]
    frame = pd.DataFrame(
        {
            "n": pd.array([large, None], dtype="Int64"),
            "o": pd.Series([large, None], dtype=object),
            "d": [Decimal("1.10"), None],
            "s": ["007", None],
            "b": pd.Series([True, None], dtype=object),
            "t": pd.to_datetime(days).tz_localize("Europe/Berlin"),
            "l": [[large, None], None],
            "none": [None, None],
        }
    )
    expected = Picky(answer="repr").predict(None, frame)  # type: ignore[no-untyped-call]
    assert scored(model, frame).data.prediction.tolist() == expected
    assert scored(model, frame, on_error="null").data.prediction.tolist() == expected


def test_what_is_suggested_as_a_type_is_read_and_is_the_next_one_that_holds_it() -> None:
    inner = pa.struct(
        [pa.field("a b", pa.int8()), pa.field("x`y", pa.list_(pa.uint64())), pa.field("é", pa.null())]
    )
    for kind, said in (
        (inner, "struct<`a b`:tinyint,`x``y`:array<decimal(20,0)>,`é`:double>"),
        (pa.large_list(pa.large_string()), "array<string>"),
        (pa.map_(pa.string(), pa.timestamp("ns", "UTC")), "map<string,timestamp>"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.float16(), "float"),
        (pa.uint32(), "long"),
        (pa.time32("s"), "string"),
        (pa.decimal128(5, 2), "decimal(5,2)"),
    ):
        assert spoken(kind) == said
        assert spoken(types.read_ddl(said)) == said
    plan = Plan("m", "x", None, ("a",), ("a",), (None,), "frame", "p", pa.float64())
    score = batches.frame_scorer(plan, _Pairs())[1]
    with pytest.raises(RuntimeError) as refused:
        score(pd.DataFrame({"a": [1.0, 2.0]}))
    suggested = str(refused.value).partition("--result-type ")[2]
    assert types.read_ddl(suggested) == pa.list_(pa.list_(pa.float64())), str(refused.value)


class _Pairs:
    def predict(self, data: Any) -> Any:
        return np.ones((len(data), 2, 2))


def test_the_row_and_the_column_that_the_model_fails_on_are_named(place: Path) -> None:
    signature = ModelSignature(
        Schema([ColSpec("double", "a"), ColSpec("long", "n")]), Schema([ColSpec("double")])
    )
    model = save(Picky(), place / "picky", signature)
    frame = pd.DataFrame({"a": np.linspace(0, 1, 1000), "n": range(1000)})
    for row, value in ((0, -1.0), (617, np.nan), (999, -1.0)):
        bad = frame.copy()
        bad.loc[row, "a"] = value
        with pytest.raises(dbml.ScoringFailed, match=rf"(nan|negative).* \(row {row}, column a\)"):
            scored(model, bad)
    with pytest.raises(dbml.ScoringFailed, match=r"column n has a null.*\(row 5, column n\)"):
        scored(model, frame.assign(n=frame.n.astype("Int64").mask(frame.n == 5)))
    with pytest.raises(dbml.ScoringFailed, match="negative"):
        scored(model, frame.assign(a=-1.0))


def test_params_reach_the_model_or_are_refused(place: Path) -> None:
    params = ParamSchema(
        [ParamSpec("scale", "double", 1.0), ParamSpec("words", "string", ["a"], shape=(-1,))]
    )
    inputs, outputs = Schema([ColSpec("double", "a")]), Schema([ColSpec("string")])
    model = save(Picky(answer="params"), place / "params", ModelSignature(inputs, outputs, params))
    frame = pd.DataFrame({"a": [1.0]})
    for given, expected in (
        (None, {"scale": 1.0, "words": ["a"]}),
        ({"scale": 2}, {"scale": 2.0, "words": ["a"]}),
        ('{"words": ["b", "c"]}', {"words": ["b", "c"], "scale": 1.0}),
    ):
        assert scored(model, frame, params=given).data.prediction[0] == repr(expected)
    for wrong, said in (
        ({"scal": 1}, r"no param 'scal'; it takes scale \(double\).* Did you mean 'scale'"),
        ({"scale": "2"}, "param scale is text, and the model wants double"),
        ({"scale": True}, "param scale is a boolean"),
        ({"words": "b"}, "param words is text, and the model wants a list of string"),
        ("{'scale': 1}", "the params are not JSON"),
        ("[1]", "a list is given"),
    ):
        with pytest.raises(dbml.BadData, match=said):
            scored(model, frame, params=wrong)
    deaf = save(Deaf(), place / "deaf", ModelSignature(inputs, outputs, params))
    with pytest.raises(dbml.ScoringFailed, match="predict takes no params, and scale would be dropped"):
        scored(deaf, frame, params={"scale": 2})
    with pytest.raises(dbml.BadData, match="names no params, and scale would be dropped"):
        scored(save(Picky(column="a"), place / "without"), frame, params={"scale": 1})


def test_two_versions_with_modules_of_the_same_names_do_not_share_them(place: Path) -> None:
    models = [log_telling(place / f"code-{said}", said) for said in ("one", "two")]
    frame = pd.DataFrame({"id": [1]})
    notebooks = ModuleType("dbml_told")
    sys.modules["dbml_told"] = notebooks
    try:
        found = [scored(model, frame).data.prediction[0] for model in (*models, *models)]
        assert sys.modules["dbml_told"] is notebooks, "the notebook's own module of that name stays"
    finally:
        del sys.modules["dbml_told"]
    assert found == ["oneONE", "twoTWO"] * 2
    assert "dbml_late" not in sys.modules


def test_rows_are_added_to_files_whose_values_stay(silent: str, tmp_path: Path) -> None:
    large = 2**53 + 1
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        for _ in range(2):
            frame = pd.DataFrame({"a": ["007"], "n": pd.array([large], dtype="Int64"), "m": [None]})
            scored(silent, frame, output=tmp_path / name, mode="append")
    assert (tmp_path / "a.csv").read_text() == "a,n,m,prediction\n" + f"007,{large},,007\n" * 2
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"a": "007", "n": large, "m": None, "prediction": "007"}
    ] * 2
    assert pd.read_parquet(tmp_path / "a.parquet").n.tolist() == [large, large]
    with pytest.raises(dbml.BadCommand, match="takes no bytes, and column a has some"):
        scored(silent, pd.DataFrame({"a": [b"x"]}), output=tmp_path / "b.csv")


# --- which model, and where to


def test_any_name_of_a_model_scores(wine: str, place: Path) -> None:
    expected = scored(wine, X).data.prediction.tolist()
    version = mlflow.MlflowClient().get_model_version("wine", "1")
    folder = mlflow.artifacts.download_artifacts("models:/wine/1", dst_path=str(place / "copy"))
    for name in ("wine", "models:/wine/1", version.run_id[:12], f"runs:/{version.run_id}/model", folder):
        assert scored(name, X).data.prediction.tolist() == expected, name
    assert scored(Path(folder).as_uri(), X).data.prediction.tolist() == expected
    with pytest.raises(dbml.ModelNotFound, match="Did you mean 'wine'") as raised:
        scored("wien/1", X)
    assert raised.value.remedies[0][0] == "%dbml score wine/1 --input $frame"
    with pytest.raises(dbml.NoModel, match="cannot be read"):
        scored("file:///nowhere/at/all", X)


@pytest.mark.parametrize("name", ["scored.parquet", "scored.csv", "folder/scored.jsonl"])
def test_files_are_written_without_spark_and_not_over_others(wine: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    result = scored(wine, X.reset_index(drop=True), output=str(path))
    assert result.output == str(path)
    readers: dict[str, Any] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}

    def read() -> Any:
        return readers[path.suffix](path) if path.suffix in readers else pd.read_json(path, lines=True)

    assert read().prediction.tolist() == pytest.approx(result.data.prediction.tolist(), rel=1e-14)
    with pytest.raises(dbml.BadCommand, match="is there already") as raised:
        scored(wine, X, output=path)
    assert [line for line, _ in raised.value.remedies] == [
        "%dbml score MODEL --mode append",
        "%dbml score MODEL --mode overwrite",
    ]
    scored(wine, X.head(1), output=path, mode="append")
    assert len(read()) == 5
    scored(wine, X.head(1), output=path, mode="overwrite")
    assert len(read()) == 1
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"output": "scored"}, "a table is named with its schema"),
        ({"mode": "append"}, "--mode is about what --output names"),
        ({"checkpoint": "/c"}, "--checkpoint is about what --output names"),
        ({"output": "a.parquet", "mode": "merge"}, "--mode is append or overwrite"),
        ({"output": "a.parquet", "checkpoint": "/c"}, "--checkpoint is for streams"),
        ({"available_now": True}, "--available-now is for streams"),
        ({"on_error": "skip"}, "--on-error is fail or null"),
        ({"result_type": "dubble"}, "no type that Spark knows"),
        ({"result_type": "array<double"}, "no type that Spark knows"),
        ({"columns": "depth"}, "--columns names 1, and the model takes 2"),
        ({"columns": "depth,depth"}, "names a column twice"),
        ({"column": " "}, "--as wants a name"),
    ],
)
def test_what_cannot_be_meant_is_refused(wine: str, wishes: dict[str, Any], said: str) -> None:
    with pytest.raises(dbml.BadCommand, match=said):
        scored(wine, X, **wishes)


def test_a_column_that_is_named_has_to_be_there(wine: str) -> None:
    with pytest.raises(dbml.BadData, match=r"--columns names 'dept'.* Did you mean 'depth'"):
        scored(wine, X, columns="dept,rate")


def test_without_pyspark_a_table_says_what_to_install(wine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pyspark" else real(name, *rest)
    )
    with pytest.raises(dbml.SparkUnavailable, match="pyspark is not installed") as raised:
        dbml.score(wine, "ml.rows")
    assert raised.value.remedies[0][0].startswith("%pip install 'pyspark")
    with pytest.raises(
        dbml.SparkUnavailable, match=r"--where is SQL, which Spark reads.*, and this needs Spark"
    ):
        dbml.score(wine, X, where="depth > 0")
    monkeypatch.setenv("DBML_SCORE_HERE", "2")
    assert scored(wine, X).engine == "this process, without Spark", "large, and there is nothing else"


@pytest.mark.full
def test_models_files_are_gone_when_the_process_ends(wine: str, place: Path) -> None:
    code = f"""
        import pandas as pd, dbml_magics as dbml, os, pathlib
        dbml.link(local=True)
        dbml.score({wine!r}, pd.DataFrame({{"depth": [1.0], "rate": [2.0]}}))
        print((pathlib.Path(os.environ["DBML_HOME"]) / "scoring" / str(os.getpid())).is_dir(), os.getpid())
        """
    was, pid = finish(child(code, cwd=place / "work")).splitlines()[-1].split()
    assert was == "True"
    assert not (place / "home" / "scoring" / pid).exists()


# --- the small parts


@pytest.mark.parametrize(
    ("written", "kind", "said"),
    [
        ("double", pa.float64(), "double"),
        ("BIGINT", pa.int64(), "bigint"),
        ("array<array<float>>", pa.list_(pa.list_(pa.float32())), "array<array<float>>"),
        ("map<string, int>", pa.map_(pa.string(), pa.int32()), "map<string,int>"),
        ("struct<a: double, `b c` array<string>>", None, "struct<a:double,b c:array<string>>"),
        ("decimal(10, 2)", pa.decimal128(10, 2), "decimal(10,2)"),
        ("timestamp", pa.timestamp("us"), "timestamp"),
    ],
)
def test_types_are_read_in_sparks_words(written: str, kind: Any, said: str) -> None:
    found = types.read_ddl(written)
    assert kind is None or found == kind
    assert types.simple(found) == said


def test_columns_of_other_types_fit_where_values_can() -> None:
    assert types.fits(pa.decimal128(10, 2), pa.float64())
    assert types.fits(pa.date32(), pa.timestamp("ns"))
    assert types.fits(pa.list_(pa.float32()), pa.list_(pa.float64()))
    assert not types.fits(pa.string(), pa.int64())
    assert not types.fits(pa.float64(), pa.string())
    assert not types.fits(pa.bool_(), pa.int32())


def test_optional_columns_may_be_missing() -> None:
    inputs: list[ColumnSpec] = [
        {"name": "a", "type": "double"},
        {"name": "b", "type": "double", "required": False},
    ]
    assert columns.match(inputs, {"a": pa.float64()}).columns == ("a",)
    assert columns.match(inputs, {"b": pa.float64(), "a": pa.float64()}).columns == ("a", "b")


def test_rows_that_lack_the_same_columns_are_judged_by_some_of_them() -> None:
    asked: list[int] = []

    class Model:
        def predict(self, data: pd.DataFrame) -> Any:
            asked.append(len(data))
            if data.a.isna().any():
                raise ValueError("nan")
            return data.a.to_numpy()

    kinds = (pa.float64(),)
    plan = Plan("m", "x", None, ("a",), ("a",), kinds, "frame", "p", pa.float64(), skip=True)
    scorer, score = batches.frame_scorer(plan, Model())
    frame = pd.DataFrame({"a": np.where(np.arange(20_000) % 2, np.nan, 1.0)})
    found = score(frame)
    assert found.null_count == scorer.refused == 10_000
    assert len(asked) < 100


def test_predictions_that_are_too_few_are_no_predictions() -> None:
    class Model:
        def predict(self, data: pd.DataFrame) -> Any:
            return np.zeros(1)

    plan = Plan("m", "x", None, ("a",), ("a",), (None,), "frame", "p", pa.float64())
    with pytest.raises(RuntimeError, match="1 predictions for 3 rows"):
        batches.frame_scorer(plan, Model())[1](pd.DataFrame({"a": [1.0, 2.0, 3.0]}))


def test_nothing_of_the_package_is_imported_by_what_goes_to_the_workers() -> None:
    for path in Path(carried.__file__).parent.glob("*.py"):
        ours = [line for line in path.read_text().splitlines() if "dbml_magics" in line]
        assert all(re.match(rf"( {{4}})?from {carried.__name__}\.", line) for line in ours), path
    assert sys.modules[batches.__name__] is batches
