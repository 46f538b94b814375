"""A package of ``--spill`` that somebody planted: nothing outside of it is opened, sent or deleted."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import frame
from dbml_magics.core.outbox.spool import copy_of
from dbml_magics.core.runtime import handoff, taking
from tests.conftest import Proxies, Servers
from tests.core.linking import assert_written_once, child, finish, link, runs_at
from tests.core.test_ends import held, spilled_job
from tests.infra.wait import eventually

CANARY = "-----BEGIN OPENSSH PRIVATE KEY----- not for anybody"

Members = dict[str, bytes]
Change = Callable[[Members, Path], Any]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return a file of the user's that no package may reach."""
    place = tmp_path / "user" / "id_rsa"
    place.parent.mkdir()
    place.write_text(CANARY * 100)
    return place


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that several machines see; a claim on it is settled at once."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(taking, "_SETTLE_S", 0.01)
    return folder


def members_of(package: Path) -> Members:
    """Return a package's files by name, in their order."""
    with tarfile.open(package) as tar:
        return {m.name: found.read() for m in tar if (found := tar.extractfile(m)) is not None}


def packed(members: Members, extra: tuple[tarfile.TarInfo, ...] = (), *, late: bool = False) -> bytes:
    """Return a package with these files; ``extra`` members come before its end (after it when ``late``)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            if name == "end.json" and not late:
                for info in extra:
                    tar.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def ops(members: Members) -> Iterator[tuple[str, list[Any]]]:
    """Yield (member, writes) of a package's journal."""
    for name, data in members.items():
        if name.startswith("queues/"):
            yield name, [json.loads(line[line.index(b"[") :]) for line in data.splitlines()]


def change_artifact(members: Members, **fields: Any) -> None:
    """Change what the package's first artifact with a copy in the spool says."""
    for name, writes in ops(members):
        for number, op in enumerate(writes):
            if op[1] == "a" and "spool" in op[2]:
                lines = members[name].splitlines(keepends=True)
                lines[number] = frame(json.dumps([*op[:2], {**op[2], **fields}]).encode())
                members[name] = b"".join(lines)
                return
    raise AssertionError("the package has no artifact with a copy")


def add_write(members: Members, *op: Any) -> None:
    """Append a write to the package's first journal file."""
    name = next(name for name, _ in ops(members))
    members[name] += frame(json.dumps([1, *op]).encode())


def change_state(members: Members, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the package's state."""
    payload = json.loads(members["state.json"])
    change(payload)
    members["state.json"] = json.dumps(payload).encode()


def add_row(table: str, *row: Any) -> Change:
    """Return a change that adds a row to a table of the state."""
    return lambda m, _: change_state(m, lambda content: content["tables"][table].append(list(row)))


def add_answer(key: str, value: Any) -> Change:
    return add_row("answers", key, json.dumps(value))


def change_head(members: Members, **fields: Any) -> None:
    members["head.json"] = json.dumps({**json.loads(members["head.json"]), **fields}).encode()


def rename(members: Members, old: str, new: str) -> None:
    """Give the first member whose name begins with ``old`` another name."""
    kept = list(members.items())
    members.clear()
    for name, data in kept:
        if old and name.startswith(old):
            members[new], old = data, ""
        else:
            members[name] = data


NAMES: dict[str, str | None] = {
    "absolute": None,  # the canary's own path
    "upwards": "../../user/id_rsa",
    "far upwards": "../" * 20 + "etc/passwd",
    "a name of its own": "id_rsa",
    "empty": "",
    "a dot": ".",
    "nested": "17c-1-00000000/../../../user/id_rsa",
    "a zero byte": "17c-1-00000000\0/etc/passwd",
    "in capitals": "17C-1-ABCDEF01",
    "a newline": "17c-1-abcdef01\n",
}


def planted() -> dict[str, Change]:
    """Return what is changed in a good package, by what it is called."""
    changes: dict[str, Change] = {}
    for what, name in NAMES.items():
        changes[f"spool {what}"] = lambda m, c, name=name: change_artifact(  # type: ignore[misc]
            m, spool=str(c) if name is None else name
        )
    for what, value in {"a number": 7, "a list": ["x"], "a map": {"a": 1}, "nothing": None}.items():
        changes[f"spool {what}"] = lambda m, _, v=value: change_artifact(m, spool=v)  # type: ignore[misc]
    for path in ("/etc/cron.d/x", "../../../.ssh/authorized_keys", "a/../../b", "", "a//b", "a\0b", 5):
        changes[f"path {path!r}"] = lambda m, _, p=path: change_artifact(m, path=p)  # type: ignore[misc]
    for owner in ("file:/home/me", "run:../x", "run:", "host:evil", 5):
        changes[f"owner {owner!r}"] = lambda m, _, o=owner: change_artifact(m, owner=o)  # type: ignore[misc]
    for size in (-1, 1 << 80, 1.5, "1", True):
        changes[f"size {size!r}"] = lambda m, _, s=size: change_artifact(m, size=s)  # type: ignore[misc]
    changes["a registration of local files"] = lambda m, c: add_write(
        m, "V", {"key": "k", "name": "n", "to": ["databricks"], "source": {"kind": "uri", "uri": str(c)}}
    )
    changes["a registration of a file: URI"] = lambda m, c: add_write(
        m, "V", {"key": "k", "name": "n", "to": [], "source": {"kind": "uri", "uri": c.as_uri()}}
    )
    changes["a registration outside of its run"] = lambda m, _: add_write(
        m, "V", {"key": "k", "name": "n", "to": [], "source": {"kind": "run", "run": "r", "path": "../.."}}
    )
    changes["a model of a path"] = lambda m, _: add_write(m, "L", {"id": "m-1", "name": "../x"})
    changes["a model with a path for an id"] = lambda m, _: add_write(m, "L", {"id": "../m", "name": "x"})
    changes["a write of a number"] = lambda m, _: add_write(m, 5)
    changes["a write with a kind of its own"] = lambda m, _: add_write(m, "../a", {})
    changes["a copy for nobody"] = lambda m, _: add_write(m, "K", "elsewhere")
    for name in (
        "queues/../../x/1-00000000-1.jnl",
        "queues/%2E%2E/1-00000000-1.jnl",
        "queues/../1-00000000-1.jnl",
        "queues/link/../../../state.db",
        "queues/link/state.db",
        "queues/a%2Fb/1-00000000-1.jnl",
        "queues/link/1-00000000-1.jnl/x",
        "/tmp/dbml-planted.jsonl",
        "../dbml-planted",
        "link.json",
        "state.db",
        "whole",
    ):
        changes[f"journal named {name}"] = lambda m, _, n=name: rename(m, "queues/", n)  # type: ignore[misc]
    for name in ("spool/../../x", "spool/id_rsa", "spool/.lent-databricks-x/y", "spool/", "spool//etc/x"):
        changes[f"copy named {name}"] = lambda m, _, n=name: rename(m, "spool/", n)  # type: ignore[misc]
    changes["no state"] = lambda m, _: m.pop("state.json")
    changes["a state of text"] = lambda m, _: m.update({"state.json": b"not json"})
    changes["a state of a list"] = lambda m, _: m.update({"state.json": b"[]"})
    changes["a state nested without end"] = lambda m, _: m.update({"state.json": b"[" * 200_000})
    changes["a state of a newer format"] = lambda m, _: change_state(m, lambda s: s.update(format=99))
    changes["a state of no format"] = lambda m, _: change_state(m, lambda s: s.update(format="1"))
    changes["a table of its own"] = lambda m, _: change_state(
        m, lambda s: s["tables"].update({"meta; DROP TABLE ids": [["x"]]})
    )
    changes["a table of no rows"] = lambda m, _: change_state(m, lambda s: s["tables"].update(ids="x"))
    changes["a row of a map"] = lambda m, _: change_state(m, lambda s: s["tables"]["ids"].append({"a": 1}))
    rows: dict[str, tuple[Any, ...]] = {
        "too short": ("answers", "x"),
        "too long": ("answers", "x", "1", "y"),
        "of numbers": ("answers", 1, "1"),
        "with nothing": ("answers", "x", None),
        "of no JSON": ("answers", "x", "{"),
        "of half a character": ("answers", "\ud800", "1"),
        "of a huge number": ("counts", "databricks", 1 << 70),
        "of a negative count": ("counts", "databricks", -1),
        "of a truth": ("counts", "databricks", True),
        "of another workspace": ("counts", "elsewhere", 1),
        "of a queue that leads upwards": ("cursors", "databricks", "..", "1-00000000-1.jnl", 0, 0),
        "of a queue that is a path": ("cursors", "databricks", "/etc", "1-00000000-1.jnl", 0, 0),
        "of a file that is a path": ("cursors", "databricks", "link", "../../x", 0, 0),
        "of a model's queue": ("models", "m", "../..", "{}"),
        "of a run without facts": ("runs", "r", 1.0, "[]"),
        "of an id without facts": ("ids", "databricks", "run", "r", "r", "[]"),
        "of an id with a path upwards": ("ids", "databricks", "model", "m", "m", '{"path": "../x"}'),
    }
    for what, (table, *row) in rows.items():
        changes[f"a row {what}"] = add_row(table, *row)
    for kind, content in {
        "a": {"owner": "run:r", "path": "x", "size": 1, "spool": "/etc/passwd"},
        "V": {"source": {"kind": "uri", "uri": "/etc"}},
    }.items():
        dead = (7, "databricks", "link", json.dumps([1, kind, content]), "c", 1.0)
        changes[f"a refused write {kind} of a path"] = add_row("dead", *dead)
    changes["a refused write of nothing"] = add_row("dead", 7, "databricks", "link", "[]", "c", 1.0)
    changes["a kept model of a path"] = add_answer("kept/azureml/m", {"path": "../../x", "run_at": "r"})
    changes["an overflow of a path"] = add_answer("overflow/azureml/r", {"written": True, "path": "/etc/x"})
    changes["an overflow of no form"] = add_answer("overflow/azureml/r", {})
    changes["steps of no number"] = add_answer("steps/azureml", "many")
    changes["a held write of no number"] = add_answer("held/azureml/x", True)
    changes["more arrived than there is"] = lambda m, _: change_state(
        m, lambda s: [row.__setitem__(3, 1 << 40) for row in s["tables"]["cursors"]]
    )
    return changes


HEADS: dict[str, dict[str, Any]] = {
    "of no format": {"format": "x"},
    "of format 0": {"format": 0},
    "of a newer format": {"format": 99},
    "of no URI": {"uri": 5},
    "of a URI that is none": {"uri": "http://[::1"},
    "of a link to nothing": {"uri": "dbml://x?track=both"},
    "of a URI with a password": {"uri": "dbml://x?databricks=http%3A%2F%2Fme%3Apw%40h&track=databricks"},
    "of no time": {"at": "soon"},
    "of an endless time": {"at": float("inf")},
    "of a time that no clock has": {"at": 1e300},
    "of writes in words": {"writes": {"databricks": "many"}},
    "of writes elsewhere": {"writes": {"elsewhere": 1}},
    "of a host's life": {"host": "h" * 100_000},
}


def raw_packages(good: Members) -> dict[str, bytes]:
    """Return packages that are no good as tar files, or hold what no package holds."""

    def info(name: str, kind: bytes, **fields: Any) -> tarfile.TarInfo:
        made = tarfile.TarInfo(name)
        made.type = kind
        for field, value in fields.items():
            setattr(made, field, value)
        return made

    spool = "spool/17c-1-abcdef01"
    found = {
        "a symbolic link": packed(good, (info(spool, tarfile.SYMTYPE, linkname="/etc/passwd"),)),
        "a hard link": packed(good, (info(spool, tarfile.LNKTYPE, linkname="../../x"),)),
        "a folder": packed(good, (info("spool", tarfile.DIRTYPE),)),
        "a pipe": packed(good, (info(spool, tarfile.FIFOTYPE),)),
        "a device": packed(good, (info(spool, tarfile.CHRTYPE, devmajor=1, devminor=3),)),
        "a sparse file": packed(
            good,
            (
                info(
                    spool,
                    tarfile.REGTYPE,
                    pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 50)},
                ),
            ),
        ),
        "another header": packed(good, (info(spool, tarfile.REGTYPE, pax_headers={"uid": "0"}),)),
        "one file twice": packed(good, (info("state.json", tarfile.REGTYPE),)),
    }
    whole = packed(good)
    at = whole.index(b"end.json")
    for what, size in {
        "huge": b"%011o\0" % (1 << 32),
        "negative": b"\xff" * 12,
        "no number": b"zzz" * 4,
    }.items():
        head = bytearray(whole[at : at + 512])
        head[124:136] = size
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        # A copy that announces more than there is, before the end.
        head[:100] = spool.encode().ljust(100, b"\0")
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        found[f"a {what} size"] = whole[:at] + bytes(head) + whole[at:]
    return found


def the_good_one(proxies: Proxies, experiment: str, home: Path, shared: Path) -> tuple[str, Members, bytes]:
    """Make a package with a job; returns its run, its files and its bytes, and takes it away."""
    run_id, _ = spilled_job(proxies, experiment, home, shared)
    (package,) = shared.iterdir()
    whole = package.read_bytes()
    package.unlink()
    return run_id, members_of_bytes(whole), whole


def members_of_bytes(data: bytes) -> Members:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: found.read() for m in tar if (found := tar.extractfile(m)) is not None}


@pytest.mark.full
def test_no_planted_package_reaches_anything_outside_of_it_and_each_is_named_and_left_as_it_is(
    home: Path,
    shared: Path,
    canary: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id, good, whole = the_good_one(proxies, experiment_name, home, shared)
    monkeypatch.setenv("DBML_HOME", str(tmp_path / "elsewhere"))
    there: dict[str, tuple[str, bytes]] = {}

    def put(what: str, data: bytes) -> None:
        name = f"dbml-{len(there):03}-a.tar"
        (shared / name).write_bytes(data)
        there[name] = (what, data)

    for what, change in planted().items():
        members = dict(good)
        change(members, canary)
        put(what, packed(members))
    for what, fields in HEADS.items():
        members = dict(good)
        change_head(members, **fields)
        put(f"a head {what}", packed(members))
    for what, data in raw_packages(good).items():
        put(what, data)
    for step in range(0, whole.index(b"end.json"), max(1, len(whole) // 40)):
        put(f"cut off at {step}", whole[:step])
    os.mkfifo(shared / "dbml-900-a.tar")
    (shared / "dbml-901-a.tar").symlink_to(canary)
    (shared / "dbml-902-a.tar").mkdir()
    outside = {path: path.read_bytes() for path in tmp_path.rglob("*") if _is_users(path, tmp_path)}
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    done = dbml.sync(60, spill=shared)
    taken = [what for name, (what, _) in there.items() if not (shared / name).exists()]
    assert (done.taken, taken) == (0, []), f"of {len(there)} planted packages these were taken up: {taken}"
    said = {name: [line for line in done.left if name in line] for name in there}
    unnamed = [there[name][0] for name, lines in said.items() if len(lines) != 1]
    assert not unnamed, f"{len(unnamed)} packages were not refused by name: {unnamed}"
    changed = [what for name, (what, data) in there.items() if (shared / name).read_bytes() != data]
    assert not changed, f"these packages did not stay as they were: {changed}"
    assert len([line for line in done.left if "dbml-90" in line]) == 3
    assert {path: path.read_bytes() for path in outside} == outside
    assert not Path("/tmp/dbml-planted.jsonl").exists()
    sent = [request.body for proxy in proxies for request in proxy.requests(".*") if request.body]
    assert not [body for body in sent if CANARY in body], "the user's file was sent"
    assert runs_at(servers, experiment_name) == [1, 0], "something of a planted package was sent"
    assert list((tmp_path / "elsewhere" / "taken").iterdir()) == []
    for path in shared.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (shared / "dbml-999-a.tar").write_bytes(packed(good))
    done = dbml.sync(60, spill=shared)
    assert (done.taken, done.left) == (1, ()), "the package that nobody changed was not delivered"
    held(servers, run_id, experiment_name)


def _is_users(path: Path, tmp_path: Path) -> bool:
    """Tell whether a file is neither ours nor in the shared folder."""
    inside = path.relative_to(tmp_path).parts[0]
    return inside not in ("shared", "elsewhere") and path.is_file() and not path.is_symlink()


@pytest.mark.full
def test_a_packages_word_for_where_a_runs_files_are_is_not_taken(
    home: Path,
    shared: Path,
    tmp_path: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id, good, _ = the_good_one(proxies, experiment_name, home, shared)
    stolen = tmp_path / "user"

    def point_elsewhere(content: dict[str, Any]) -> None:
        for row in content["tables"]["ids"]:
            extra = json.loads(row[4])
            if "artifacts" in extra:
                row[4] = json.dumps({**extra, "artifacts": stolen.as_uri()})

    change_state(good, point_elsewhere)
    # Everything is to be sent again, so the place is needed at both workspaces.
    change_state(good, lambda content: content["tables"].update(cursors=[]))
    (shared / "dbml-1-a.tar").write_bytes(packed(good))
    monkeypatch.setenv("DBML_HOME", str(tmp_path / "elsewhere"))
    link(proxies)
    done = dbml.sync(60, spill=shared)
    assert (done.taken, done.left) == (1, ())
    held(servers, run_id, experiment_name)
    assert not stolen.exists(), "files went where the package said"


# --- the journal itself


@pytest.mark.parametrize("name", [*NAMES.values(), 7, ["x"], {"a": 1}, None])
def test_the_spool_has_no_file_of_a_name_that_it_did_not_give(
    tmp_path: Path, canary: Path, name: Any
) -> None:
    hostile = str(canary) if name is None else name
    journal = Journal(tmp_path / "journal")
    (tmp_path / "journal" / "spool").mkdir(parents=True)
    op = [1, "a", {"owner": "run:r", "path": "x", "size": 1, "spool": hostile}]
    assert copy_of(op) is None
    assert journal.spool.find(hostile) is None
    journal.spool.delete(hostile)
    with journal.spool.lent(op[2], "x", "databricks") as lent:  # type: ignore[arg-type]
        assert lent is None
    assert canary.exists()


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "/etc/x", "a/b", "a\0b"])
def test_a_file_is_lent_under_no_name_that_is_a_path(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path / "journal")
    with journal.spool.lent({"data": "eA==", "size": 1}, name, "databricks") as lent:
        assert lent is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_link_in_the_spool_is_no_copy(tmp_path: Path, canary: Path) -> None:
    journal = Journal(tmp_path / "journal")
    place = tmp_path / "journal" / "spool" / "17c-1-abcdef01"
    place.parent.mkdir(parents=True)
    place.symlink_to(canary)
    assert journal.spool.find(place.name) is None
    place.unlink()
    copied = tmp_path / "x"
    copied.write_text("y")
    name, _ = journal.spool.add(copied)
    kept = journal.spool.find(name)
    assert kept is not None
    assert kept.read_text() == "y"


@pytest.mark.parametrize("queue", ["..", ".", "...", "../..", "/etc", "a/b", ""])
def test_a_queue_is_a_folder_below_the_queues_whatever_it_is_called(tmp_path: Path, queue: str) -> None:
    journal = Journal(tmp_path)
    folder = Path(os.path.normpath(journal.folder(queue)))
    assert folder.parent == tmp_path / "queues"
    if queue:
        journal.append(queue, frame(b'[1,"x"]'))
        assert journal.queues() == [queue]
    journal.close()


# --- whose package it is


@pytest.mark.full
def test_of_two_copies_of_a_data_folder_only_one_delivers_a_package(
    home: Path,
    shared: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
) -> None:
    """The copy is made while a claim stands: by then both know the claim's word."""
    for proxy in proxies:
        proxy.keep_bodies()
    run_id, _ = spilled_job(proxies, experiment_name, home, shared)
    taker = f"""
        import dbml_magics as dbml
        dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        done = dbml.sync(timeout=60, spill={str(shared)!r})
        print(done.taken, *done.left)
        """
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    with proxies.azureml.hang(path="artifacts|runs/update"):
        process = child(taker, DBML_HOME=str(first))
        eventually(
            lambda: proxies.azureml.count("log-batch", method="POST") > 0 or process.poll() is not None,
            "the taker delivers",
        )
        shutil.copytree(first, second, symlinks=True)
        # A copy that tells the truth in everything that a copy can.
        for path in first.rglob("*"):
            if (twin := second / path.relative_to(first)).exists():
                output = path.stat()
                os.utime(twin, ns=(output.st_atime_ns, output.st_mtime_ns))
        told_second = finish(child(taker, DBML_HOME=str(second)))
    assert told_second.startswith("0 "), "the copy delivered the package beside the first"
    assert "is being delivered by" in told_second
    assert finish(process).split()[0] == "1"
    held(servers, run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(proxies)
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize(
    "claim",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"taker": 5, "at": "soon", "host": {}}',
        b'{"at": 1e300, "host": "far"}',
        b'{"at": NaN}',
        b"[" * 4000,
        b"x" * 100_000,
    ],
)
def test_a_claim_that_cannot_be_read_is_anothers(
    home: Path, shared: Path, proxies: Proxies, experiment_name: str, claim: bytes
) -> None:
    link(proxies)
    engine = session.current().engine("this test")
    package = handoff.Bundle(shared / "dbml-1-a.tar", engine.link, "host", 1.0, {})
    package.path.write_bytes(b"x")
    package.claim.write_bytes(claim)
    with taking.taken_up(package, engine) as found:
        assert isinstance(found, str)
        assert f"delete {package.claim}" in found
    assert package.claim.read_bytes() == claim
    package.claim.unlink()
    package.claim.symlink_to(shared / "elsewhere")
    with taking.taken_up(package, engine) as found:
        assert isinstance(found, str)
    assert not (shared / "elsewhere").exists()
