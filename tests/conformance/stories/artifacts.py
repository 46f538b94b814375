"""Files of runs: written, listed, and brought back by every name that they have."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from tests.conformance.player import Player, Table

table = Table("artifacts")


def filled(p: Player) -> str:
    """Make a run with files; returns its id."""
    own = p.client.create_experiment(p.name("a"))
    run = str(p.client.create_run(own).info.run_id)
    p.client.log_text(run, "one", "one.txt")
    p.client.log_text(run, "two", "sub/two.txt")
    p.client.log_text(run, "three", "sub/deep/three.txt")
    return run


def target(p: Player, name: str) -> str:
    """Make a folder to download to."""
    folder = p.folder / name
    folder.mkdir()
    return str(folder)


@table.story("every call that writes", away=True)
def _(p: Player) -> None:
    run = filled(p)
    p.file("folder/a.txt", "a")
    p.file("folder/b/c.txt", "c")
    p.away()
    p.client.log_artifact(run, p.file("f.txt"), "at")
    p.client.log_artifact(run, Path(p.file("g.txt")))
    p.client.log_artifacts(run, str(p.folder / "folder"))
    p.client.log_artifacts(run, str(p.folder / "folder"), artifact_path="at/folder")
    p.client.log_dict(run, {"b": 1, "a": [1]}, "d.json")
    p.client.log_dict(run, {"b": 1}, "d.yaml")
    p.client.log_text(run, "ü", "sub/ü.txt")
    p.client.log_stream(run, BytesIO(b"stream"), "s.bin")
    p.client.log_image(run, np.zeros((2, 2, 3), dtype=np.uint8), "i.png")
    p.client.log_table(run, pd.DataFrame({"a": [1], "b": ["x"]}), "t.json")
    p.client.log_table(run, {"a": [2], "b": ["y"]}, "t.json")
    p.client.list_artifacts(run)
    p.client.list_artifacts(run, "sub")
    p.client.download_artifacts(run, "sub")


@table.story("lists")
def _(p: Player) -> None:
    run = filled(p)
    for path in (
        None,
        "",
        "sub",
        "sub/",
        "sub/deep",
        "one.txt",
        "none",
        "sub/none",
        ".",
        "/",
        "/sub",
        "..",
        "../..",
        "sub/../sub",
        "./sub",
        "%2e%2e",
        "a\\b",
    ):
        p.client.list_artifacts(run, path)
    p.client.set_terminated(run)
    p.client.list_artifacts(run)
    p.client.delete_run(run)
    p.client.list_artifacts(run)


@table.story("downloads")
def _(p: Player) -> None:
    run = filled(p)
    for number, path in enumerate(
        ("", "sub", "sub/", "sub/deep/three.txt", "one.txt", "none", "sub/none", ".", "..", "/one.txt")
    ):
        p.client.download_artifacts(run, path)
        p.client.download_artifacts(run, path, target(p, str(number)))
    p.client.download_artifacts(run, "one.txt", str(p.folder / "no such folder"))
    p.client.download_artifacts(run, None)


@table.story("downloads by address")
def _(p: Player) -> None:
    run = filled(p)
    root = p.raw.get_run(run).info.artifact_uri
    for number, where in enumerate(
        (
            f"runs:/{run}",
            f"runs:/{run}/",
            f"runs:/{run}/sub",
            f"runs:/{run}/sub/",
            f"runs:/{run}/one.txt",
            f"runs:/{run}/none",
            root,
            f"{root}/",
            f"{root}/sub",
            f"{root}/sub/",
            f"{root}/.",
            f"{root}/one.txt",
            f"{root}/sub/deep/three.txt",
            f"{root}/none",
            root.rsplit("/", 1)[0],
            "runs:/" + "0" * 32 + "/x",
            "nonsense://x",
        )
    ):
        p.mlflow.artifacts.download_artifacts(where)
        p.mlflow.artifacts.download_artifacts(artifact_uri=where, dst_path=target(p, str(number)))
        p.mlflow.artifacts.list_artifacts(where)
    p.mlflow.artifacts.download_artifacts(run_id=run, artifact_path="sub")
    p.mlflow.artifacts.download_artifacts(run_id=run, artifact_path="")
    p.mlflow.artifacts.download_artifacts(run_id=run)
    p.mlflow.artifacts.download_artifacts()
    p.mlflow.artifacts.list_artifacts(run_id=run, artifact_path="sub")
    p.mlflow.artifacts.list_artifacts(run_id=run)
    p.mlflow.artifacts.list_artifacts()
    p.mlflow.artifacts.list_artifacts(artifact_uri=root, run_id=run)


@table.story("contents loaded")
def _(p: Player) -> None:
    run = filled(p)
    root = p.raw.get_run(run).info.artifact_uri
    p.client.log_dict(run, {"a": 1}, "d.json")
    p.client.log_image(run, np.zeros((2, 2, 3), dtype=np.uint8), "i.png")
    for base in (root, f"runs:/{run}"):
        p.mlflow.artifacts.load_text(f"{base}/one.txt")
        p.mlflow.artifacts.load_dict(f"{base}/d.json")
        p.mlflow.artifacts.load_dict(f"{base}/one.txt")
        p.call("mlflow.artifacts.load_image", load_image, artifact_uri=f"{base}/i.png")
        p.mlflow.artifacts.load_text(f"{base}/none.txt")


def load_image(artifact_uri: str) -> object:
    """Return an image as what compares."""
    import mlflow.artifacts

    return np.asarray(mlflow.artifacts.load_image(artifact_uri))


@table.story("written twice")
def _(p: Player) -> None:
    run = filled(p)
    for text in ("first", "second", "third"):
        p.client.log_text(run, text, "same.txt")
        p.client.download_artifacts(run, "same.txt")
    p.client.log_text(run, "below a file", "one.txt/x.txt")
    p.client.log_text(run, "over a folder", "sub")
    p.client.list_artifacts(run)


def named(p: Player, names: tuple[str, ...]) -> None:
    """Write files of these names by two calls, and look at them."""
    run = filled(p)
    for name in names:
        p.client.log_text(run, name, f"names/{name}")
        p.client.log_artifact(run, p.file(f"local/{name}", name), "local")
    p.client.list_artifacts(run, "names")
    p.client.list_artifacts(run, "local")
    p.client.download_artifacts(run, "names")


@table.story("names of files")
def _(p: Player) -> None:
    named(
        p, ("a b.txt", "ü.txt", "a&b=c.txt", "a+b.txt", "'q'.txt", "a;b.txt", "~.txt", "[x].txt", ".hidden")
    )


@table.story("names of files that a server changes")
def _(p: Player) -> None:
    named(p, ("a b.txt", "a%20b.txt", "a#b.txt", "a?b.txt", "%2f.txt", "a%b.txt", "tab\t.txt"))


@table.story("names of files that are paths")
def _(p: Player) -> None:
    run = filled(p)
    for name in ("../up.txt", "/root.txt", "a//b.txt", "a/./b.txt", "a/../b.txt", "..", ".", "", "x/"):
        p.client.log_text(run, name, name)
    p.client.list_artifacts(run)
    p.client.log_text(run, "backslash", "c:\\x.txt")
    p.client.list_artifacts(run)


@table.story("paths of folders")
def _(p: Player) -> None:
    run = filled(p)
    p.file("folder/a.txt", "a")
    (p.folder / "folder" / "empty").mkdir()
    (p.folder / "folder" / "link.txt").symlink_to(p.folder / "folder" / "a.txt")
    for path in (None, "", "at", "at/", "at//x", "../up", "/root", ".", "at/./y"):
        p.client.log_artifacts(run, str(p.folder / "folder"), path)
        p.client.log_artifact(run, str(p.folder / "folder" / "a.txt"), path)
    p.client.log_artifact(run, str(p.folder / "none.txt"))
    p.client.log_artifacts(run, str(p.folder / "none"))
    p.client.log_artifacts(run, str(p.folder / "folder" / "a.txt"))
    p.client.log_artifact(run, str(p.folder / "folder"))
    p.client.log_artifact(run, None)
    p.client.list_artifacts(run)
    p.client.download_artifacts(run, "")


@table.story("tables")
def _(p: Player) -> None:
    own = p.client.create_experiment(p.name("a"))
    runs = [p.client.create_run(own, start_time=n, run_name=f"r{n}").info.run_id for n in range(2)]
    for number, run in enumerate(runs):
        p.client.log_table(run, {"a": [number, None], "b": ["x", "ü"]}, "t.json")
    p.client.load_table(own, "t.json", [runs[0]])
    p.client.load_table(own, "t.json", runs, ["run_id", "run_name"])
    p.client.load_table(own, "none.json")
    p.client.log_table(runs[0], "nonsense", "t.json")
    p.client.log_table(runs[0], {"a": [1]}, "t.parquet")
    p.client.list_artifacts(runs[0])


@table.story("of a deleted experiment")
def _(p: Player) -> None:
    run = filled(p)
    own = p.raw.get_run(run).info.experiment_id
    p.client.delete_experiment(own)
    p.client.list_artifacts(run)
    p.client.download_artifacts(run, "one.txt")
    p.client.log_text(run, "late", "late.txt")
    p.client.list_artifacts(run)
    p.client.restore_experiment(own)


@table.story("many, and one that is empty")
def _(p: Player) -> None:
    run = filled(p)
    for number in range(30):
        p.file(f"many/{number % 3}/{number}.txt", str(number))
    p.client.log_artifacts(run, str(p.folder / "many"), "many")
    p.client.log_text(run, "", "empty.txt")
    p.client.list_artifacts(run, "many")
    p.client.list_artifacts(run, "many/1")
    p.client.download_artifacts(run, "many")
