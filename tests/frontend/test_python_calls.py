"""The same things as Python calls and as shell commands."""

from __future__ import annotations

import inspect
import traceback

import pytest

import dbml_magics as dbml
from dbml_magics import api
from dbml_magics.__main__ import main
from dbml_magics.results.base import Result
from tests.frontend.fakes import FakeSession


@pytest.mark.parametrize("name", [name for name in api.__all__ if name not in ("TrackedRun", "track")])
def test_each_call_is_answered_by_what_the_fake_answers(fake: FakeSession, name: str) -> None:
    call = getattr(dbml, name)
    needed = {
        each.name: "wine"
        for each in inspect.signature(call).parameters.values()
        if each.default is each.empty and each.kind is not each.VAR_POSITIONAL
    }
    if name == "cleanup":
        needed |= {"confirm": "wine"}
    assert isinstance(call(**needed), Result)
    assert fake.last(name).items() >= needed.items()


def test_a_call_without_a_link_says_so() -> None:
    for call in (dbml.status, dbml.runs, dbml.models, dbml.sync):
        with pytest.raises(dbml.NotLinked, match=rf"{call.__name__}\(\) needs a link"):
            call()


def test_an_error_that_its_user_causes_is_raised_as_the_calling_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        try:
            int("what led to it")
        except ValueError as error:
            raise dbml.WorkspaceUnreachable("nothing answers.", remedies=["try again"]) from error

    monkeypatch.setattr(api, "_session", fails)
    with pytest.raises(dbml.WorkspaceUnreachable) as caught:
        dbml.link(local=True)
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback") == 1
    assert "what led to it" not in shown
    assert "in fails" not in shown
    assert isinstance(caught.value.__context__, ValueError), "a debugger still finds it"


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
