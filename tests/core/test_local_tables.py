"""A database here begins with tables that MLflow made for an earlier one."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.core.link import ROLES

Schema = list[tuple[str, str, str | None]]


@pytest.fixture
def kept(home: Path) -> Path:
    """Return where this home keeps tables, of which there are none yet."""
    shutil.rmtree(home / "tables")
    return home / "tables" / f"mlflow-{mlflow.__version__}.db"


def schema(database: Path) -> Schema:
    with closing(sqlite3.connect(database)) as opened:
        found: Schema = opened.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        return found


def rows(database: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as opened:
        return opened.execute(f"SELECT * FROM {table}").fetchall()


def linked(folder: Path) -> list[Path]:
    """Link to two databases in a folder and log a run; return the databases once both have it."""
    dbml.link(local=str(folder))
    mlflow.set_experiment("wine")
    with mlflow.start_run():
        mlflow.log_metric("loss", 0.5)
    dbml.sync(60)
    dbml.unlink()
    return [folder / role / "mlflow.db" for role in ROLES]


def test_a_copied_database_is_as_one_that_mlflow_made(kept: Path, tmp_path: Path) -> None:
    made, copied = linked(tmp_path / "one")
    later = linked(tmp_path / "two")
    assert schema(made) == schema(copied) == schema(later[0]) == schema(later[1])
    for database in (made, copied, *later):
        assert rows(database, "alembic_version") == rows(made, "alembic_version")
        client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        default = client.get_experiment("0")
        assert default.name == "Default"
        assert default.artifact_location == f"file://{database.parent}/artifacts/0"
        (run,) = client.search_runs([client.get_experiment_by_name("wine").experiment_id])
        assert run.data.metrics == {"loss": 0.5}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert rows(kept, "experiments") == [], "no place of the first database's is kept"


def test_kept_tables_that_cannot_be_used_are_made_anew(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.parent.mkdir(mode=0o700)
    kept.write_bytes(b"no database")
    old = kept.with_name("mlflow-1.0.db")
    old.touch()
    with caplog.at_level(logging.WARNING):
        assert len(linked(tmp_path / "one")) == 2
    assert rows(kept, "alembic_version")
    assert not old.exists(), "another version's tables are of no use"
    assert not caplog.records


def test_tables_that_cannot_be_kept_keep_nobody_from_linking(kept: Path, tmp_path: Path) -> None:
    kept.parent.write_text("a file in the folder's place")
    assert len(linked(tmp_path / "one")) == 2
    assert not kept.exists()
