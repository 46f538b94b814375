"""A server that repeats the secret that it was sent: in nothing that we keep or show does it stand."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException, RestException

import dbml_magics as dbml
from dbml_magics.common import config, log_records, redaction
from dbml_magics.core import session
from dbml_magics.core.destinations.errors import Unavailable, cause_of, classify_error, refusal
from dbml_magics.errors import BadLink, DbmlError, DeliveryIncomplete
from tests.conftest import Proxies
from tests.core.linking import link

TOKEN = "tok/en+of=databricks&0123456789 abcdef"  # as awkward as a secret may be
USER, PASSWORD = "me", 'pass"word\\of<azureml>'


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    yield
    redaction._remembered.clear()


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both workspaces be shown a secret."""
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", TOKEN)
    monkeypatch.setenv("DBML_AZUREML_USERNAME", USER)
    monkeypatch.setenv("DBML_AZUREML_PASSWORD", PASSWORD)


def forms(secret: str) -> dict[str, str]:
    """Return a secret as servers, addresses and JSON may repeat it."""
    return {
        "as it is": secret,
        "in JSON": json.dumps(secret)[1:-1],
        "in an address": quote(secret, safe=""),
        "in a query": quote_plus(secret),
        "in markup": escape(secret),
        "in Base64": base64.b64encode(secret.encode()).decode(),
        "as Python writes it": repr(secret)[1:-1],
    }


BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = {*forms(TOKEN).values(), *forms(PASSWORD).values(), BASIC}
CUT = {TOKEN[:16], PASSWORD[:14], BASIC[:16]}  # what is left of one that is cut off


def leaks(text: str) -> list[str]:
    """Return the secrets that stand in a text, also their beginnings."""
    return [secret for secret in (*SECRETS, *CUT) if secret in text]


def echo(code: str) -> str:
    """Return an error of MLflow's that repeats every secret in every form, some of it cut off anywhere."""
    said = " ".join([f"Authorization: Bearer {TOKEN}", f"Basic {BASIC}", *sorted(SECRETS)])
    return json.dumps({"error_code": code, "message": f"refused: {said}", "error": {"message": said}})


ANSWERS: list[tuple[int, str]] = [
    (400, echo("INVALID_PARAMETER_VALUE")),
    (400, f"<html>{' '.join(sorted(SECRETS))}</html>"),
    (401, echo("UNAUTHENTICATED")),
    (403, echo("PERMISSION_DENIED")),
    (404, echo("RESOURCE_DOES_NOT_EXIST")),
    (409, echo("RESOURCE_CONFLICT")),
    (429, echo("REQUEST_LIMIT_EXCEEDED")),
    (500, echo("INTERNAL_ERROR")),
    (503, f"{' '.join(sorted(SECRETS))}"),
]


@pytest.mark.full(but=["log-batch"])
@pytest.mark.usefixtures("signed_in")
@pytest.mark.parametrize("path", ["log-batch", "mlflow-artifacts", "runs/update", "runs/create"])
def test_an_echoed_secret_is_in_no_text_file_or_log(
    home: Path,
    proxies: Proxies,
    experiment_name: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setenv("DBML_LONGEST_PAUSE", "0.3")
    monkeypatch.setenv("DBML_IDENTITY_BUDGET", "1")
    caplog.set_level(logging.DEBUG, "dbml_magics")
    link(proxies)
    current = session.current()
    dbml.experiment(experiment_name)
    dbml.sync(60)
    said: dict[str, str] = {}
    for number, (status, body) in enumerate(ANSWERS):
        what = f"{status} {number}"
        failures = [proxy.status(status, path=path, body=body) for proxy in proxies]
        try:
            track = current.begin_track(f"run {number}")
            mlflow.log_metric("m", number)
            mlflow.log_param("p", "v")
            mlflow.log_text("t" * 5000, "t.txt")
            summary = track.end()
            said[f"{what} summary"] = f"{summary.text()} {summary.html()}"
        except Exception as error:  # what the user sees of a refusal that has to be told at once
            said[f"{what} error"] = _with_causes(error)
            mlflow.end_run()
        try:
            dbml.sync(1.5)
        except DeliveryIncomplete as error:
            said[f"{what} sync"] = "\n".join(error.lines())
        for name, show in _shown(current):
            result = show()
            said[f"{what} {name}"] = f"{result} {result.html()} {result!r}"
        for failure in failures:
            failure.clear()
    state = current.engine("this test").state
    said["dead letters' causes"] = " ".join(cause for *_, cause, _ in state.dead())
    said["answers"] = json.dumps(state.dump()["tables"]["answers"])
    said["lines"] = " ".join(str(line.reason) for line in current.engine("this test").health.values())
    said["logs"] = caplog.text
    said["output"] = "".join(capsys.readouterr())
    for file in (file for file in home.rglob("*") if file.is_file()):
        said[str(file.relative_to(home))] = file.read_bytes().decode("utf-8", "replace")
    found = {place: leaked for place, text in said.items() if (leaked := leaks(text))}
    print(f"{len(said)} texts and files, {len(found)} with a secret")
    assert not found, f"of {len(said)} texts and files these hold a secret: {found}"


def _shown(current: session.Session) -> list[tuple[str, Callable[[], Any]]]:
    return [("status", current.status), ("dead letters", dbml.dead_letters)]


def _with_causes(error: BaseException) -> str:
    """Return what a traceback would show of an error and of those behind it."""
    leaked: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(leaked) < 10:
        leaked.append(f"{type(seen).__name__}: {seen} {seen.args}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\n".join(leaked)


# --- the pieces


@pytest.mark.usefixtures("signed_in")
@pytest.mark.parametrize("form", [*forms("x")])
@pytest.mark.parametrize("secret", [TOKEN, PASSWORD, BASIC])
def test_a_secret_is_taken_out_of_a_text_in_every_form(secret: str, form: str) -> None:
    config.credentials("databricks")
    config.credentials("azureml")
    text = f"it said {forms(secret)[form]} and no more"
    assert leaks(redaction.redacted(text)) == []
    assert redaction.redacted(text).startswith("it said ***")
    assert redaction.redacted(text).endswith(" and no more")


@pytest.mark.usefixtures("signed_in")
def test_the_beginning_of_a_secret_that_was_cut_off_is_taken_out_too() -> None:
    config.credentials("databricks")
    for length in range(12, len(TOKEN)):
        assert redaction.redacted(f"said ({TOKEN[:length]}…)") == "said (***…)"


@pytest.mark.parametrize("short", ["", "a", "run", "model", "metric", "1234567"])
def test_a_short_value_blanks_out_no_ordinary_word(monkeypatch: pytest.MonkeyPatch, short: str) -> None:
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", short)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", short)
    config.credentials("databricks")
    text = f"no run {short} of model metric 1234567"
    assert redaction.redacted(text) == text


def test_a_word_in_somebody_elses_variable_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEY", "training")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/token")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    text = "training reads /var/run/secrets/token"
    assert redaction.redacted(text) == text
    assert redaction.redacted("with sk-0123456789abcdef") == "with ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dapi" + "0" * 32, "***"),
        ("eyJhbGciOi.eyJzdWIiOi.c2ln", "***"),
        ("https://h/x?sv=1&sig=abc%2Bdef&se=2", "https://h/x?sv=1&sig=***&se=2"),
        ("postgresql://me:word@host/db", "postgresql://***@host/db"),
        ('{"url": "https://host/x", "to": "me@host"}', '{"url": "https://host/x", "to": "me@host"}'),
        ('{"a": "sig=abc\\"def"}', '{"a": "sig=***\\"def"}'),
        ("Bearer token required", "Bearer token required"),
        ("a run of basic training", "a run of basic training"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_and_nothing_else(text: str, shown: str) -> None:
    assert redaction.redacted(text) == shown


@pytest.mark.usefixtures("signed_in")
def test_every_way_in_of_a_servers_words_is_clean() -> None:
    config.credentials("databricks")
    config.credentials("azureml")
    output = json.loads(echo("INVALID_PARAMETER_VALUE"))
    errors: list[Exception] = [
        RestException(output),
        MlflowException(output["message"]),
        requests.exceptions.InvalidHeader(f"Invalid header: {output['message']}"),
        OSError(output["message"]),
        requests.HTTPError(output["message"], response=_response(400, output["message"])),
        requests.HTTPError(output["message"], response=_response(403, output["message"])),
    ]
    texts = [str(classify_error(error)) for error in errors]
    texts += [str(getattr(classify_error(error), "reason", "")) for error in errors]
    texts += [cause_of(ValueError(output["message"])), str(refusal(400, output["message"]))]
    texts += [str(Unavailable(output["message"], shown=output["message"]))]
    texts += DbmlError(output["message"], remedies=[(output["message"], output["message"])]).lines()
    texts += [str(BadLink(output["message"]).args)]
    assert [text for text in texts if leaks(text)] == []


@pytest.mark.usefixtures("signed_in")
def test_a_log_record_and_its_traceback_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    config.credentials("databricks")
    log = log_records.logger("dbml_magics.of_this_test")
    try:
        raise ValueError(TOKEN) from OSError(TOKEN)
    except ValueError:
        log.exception("it said %s", TOKEN)
    log.warning("it said \x1b[31m%s", {"token": TOKEN})
    shown = caplog.text + "".join(
        logging.Formatter("%(message)s").format(record) for record in caplog.records
    )
    assert leaks(shown) == []
    assert "ValueError: ***" in shown
    assert "\x1b" not in shown
    assert len(sys.exc_info()) == 3


def _response(status: int, text: str) -> requests.Response:
    made = requests.Response()
    made.status_code, made._content = status, text.encode()
    return made
