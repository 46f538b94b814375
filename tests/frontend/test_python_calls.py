"""The same things as Python calls and as shell commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

import dbml_magics as dbml
from dbml_magics.__main__ import main
from dbml_magics.core.session import Session
from tests.frontend.fakes import FakeSession


def test_each_command_has_its_call(fake: FakeSession) -> None:
    assert dbml.link(local=True).fresh
    assert dbml.status().track == "both"
    assert dbml.experiment("wine").name == "wine"
    assert len(dbml.runs(max_results=1)) == 1
    assert [run.run_id for run in dbml.compare("a", "b").runs] == ["a", "b"]
    assert dbml.register("last", "wine", aliases=["a"]).versions[0].aliases == ("a",)
    assert dbml.receipt().delivered
    assert dbml.models("wine").name == "wine"
    assert dbml.sync(timeout=3).seconds == 3.2
    assert len(dbml.dead_letters("last")) == 1
    assert dbml.retry_dead_letters(timeout=1).arrived == {"azureml": 1}
    assert len(dbml.discard_dead_letters(1).letters) == 1
    assert dbml.deploy("wine/1", to="local", name="wine").uri == "http://127.0.0.1:5001/score"
    assert len(dbml.endpoints()) == 1  # type: ignore[arg-type]
    assert list(dbml.logs("wine")) == ["INFO ready"]
    assert list(dbml.invoke("wine", [[1.0]])) == [1.5, 2.5]
    assert dbml.undeploy("wine").deployments == ("wine",)
    assert len(dbml.cleanup("run", "last", confirm="last").deleted) == 1
    assert len(dbml.doctor(json=True).warnings) == 1
    assert not dbml.probe().otherwise
    assert dbml.score("wine/1", [1.0], column="p").column == "p"
    assert dbml.ui(stop=True).stopped
    assert dbml.unlink().undelivered["azureml"] == 3
    asked = [name for name, _ in fake.calls if name != "status"]
    assert asked == [
        "link",
        "experiment",
        "runs",
        "compare",
        "register",
        "receipt",
        "models",
        "sync",
        "dead_letters",
        "retry_dead_letters",
        "discard_dead_letters",
        "deploy",
        "endpoints",
        "logs",
        "invoke",
        "undeploy",
        "cleanup",
        "doctor",
        "probe",
        "score",
        "ui",
        "unlink",
    ]


def test_a_call_without_a_link_says_so(fake: FakeSession) -> None:
    fake.linked = False
    for call in (dbml.status, dbml.runs, dbml.models, dbml.sync, dbml.unlink):
        with pytest.raises(dbml.NotLinked, match=rf"{call.__name__}\(\) needs a link"):
            call()


def test_calls_print_nothing(fake: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    dbml.link(local=True)
    with dbml.track("forest"):
        pass
    assert capsys.readouterr().out == ""


def test_a_block_is_a_run(fake: FakeSession) -> None:
    with dbml.track("forest", autolog=True, tags={"k": "v"}) as run:
        assert run.run_id == fake.tracks[0].run_id
        assert run.summary is None
    assert run.summary is not None
    assert run.summary.status == "FINISHED"
    assert fake.last("begin_track")["autolog"] is True


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_block_that_ends_early_ends_its_run(
    fake: FakeSession, error: type[BaseException], status: str
) -> None:
    tracked = dbml.track()
    with pytest.raises(error), tracked:
        raise error
    assert fake.tracks[0].status == status
    assert tracked.summary is not None


def test_a_block_whose_end_fails_raises_with_its_summary(fake: FakeSession) -> None:
    fake.has_model = False
    run = dbml.track(register="wine")
    with pytest.raises(dbml.NoModel), run:
        pass
    assert run.summary is not None
    fake.end_raises = dbml.JournalFull("full")
    with pytest.raises(ValueError, match="mine"), dbml.track():
        raise ValueError("mine")


def test_a_block_is_entered_once(fake: FakeSession) -> None:
    run = dbml.track()
    with pytest.raises(RuntimeError, match="begins with its block"):
        run.run_id
    with run:
        pass
    with pytest.raises(RuntimeError, match="tracked once"), run:
        pass


def test_the_shell_command_takes_up_the_remembered_link(
    fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 0
    assert fake.last("link")["again"] is True
    assert capsys.readouterr().out.startswith("Tracking to both")
    assert main(["sync", "--timeout", "60"]) == 0
    assert fake.last("sync")["timeout"] == 60
    assert "Delivered databricks 1,204 writes" in capsys.readouterr().out


def test_the_shell_command_fails_with_one_and_the_same_two_lines(
    fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", "--timeout", "0"]) == 1
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "DeliveryIncomplete: 12 writes are still on their way to azureml.",
        "  try  dbml-magics sync",
    ]
    fake.remembered = False
    assert main(["status"]) == 1
    assert "NothingRemembered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stauts"], 'Did you mean "status"?'),
        (["sync", "--timeout", "abc"], "--timeout wants a number of seconds"),
        (["sync", "--timeuot", "1"], "Did you mean --timeout?"),
        (["status", "--token", "hunter2"], "SecretRefused"),
    ],
)
def test_the_shell_command_fails_with_two_when_the_line_is_wrong(
    fake: FakeSession, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "hunter2" not in shown.err
    assert shown.out == ""
    assert fake.calls == []


def test_a_defect_in_the_shell_keeps_its_traceback(
    fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.raises = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["status"])
    assert "a defect of ours" in capsys.readouterr().err


def _public(kind: type) -> dict[str, Callable[..., object]]:
    return {name: each for name, each in vars(kind).items() if inspect.isfunction(each) and name[0] != "_"}


def test_the_made_up_session_is_asked_as_the_real_one_is() -> None:
    real, made_up = _public(Session), _public(FakeSession)
    del made_up["last"], made_up["begin_track"]
    for name, method in made_up.items():
        assert str(inspect.signature(method)) == str(inspect.signature(real[name])), name
    settings = set(inspect.signature(Session.begin_track).parameters)
    assert set(inspect.signature(dbml.track).parameters) <= settings


def test_the_shell_command_says_how_it_is_used(fake: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert main(["sync", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "usage: dbml-magics status|sync" in shown
    assert "usage: dbml-magics sync [--timeout S]" in shown
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == dbml.__version__
    assert fake.calls == []
