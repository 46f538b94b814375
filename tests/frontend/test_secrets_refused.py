"""A secret on a line is refused before anything can echo it."""

from __future__ import annotations

import pytest

from dbml_magics.common.secrecy import is_secret_option, looks_secret
from dbml_magics.errors import SecretRefused
from tests.frontend.conftest import Shell

TOKEN = "dapi" + "0123456789abcdef" * 2
JWT = "eyJ0eXAiOiJKV1Qi.eyJhdWQiOiJodHRwcz.c2lnbmF0dXJl"

LINES = [
    ("%dbml link --token hunter2", "hunter2"),
    ("%dbml link --databricks http://h:1 --password=hunter2", "hunter2"),
    ("%dbml link --pat hunter2", "hunter2"),
    ("%dbml link --client-secret hunter2", "hunter2"),
    ("%dbml link --secret 'hunter2", "hunter2"),
    ("%dbml link --tokn hunter2", "hunter2"),
    ("%dbml status --api_key hunter2", "hunter2"),
    (f"%dbml {TOKEN}", TOKEN),
    (f"%dbml runs --filter {TOKEN}", TOKEN),
    (f"%dbml experiment {JWT}", JWT),
    ('%dbml experiment "Bearer hunter2"', "hunter2"),
    ("%dbml link --azureml https://user:hunter2@host/", "hunter2"),
    ("%dbml link --azureml https://hunter2@host/", "hunter2"),
    ("%dbml link --databricks postgresql://user:hunter2@host/db", "hunter2"),
    ("%dbml link --azureml https://host/?access_token=hunter2", "hunter2"),
    ("%dbml link --azureml 'https://host/?sv=1&sig=hunter2'", "hunter2"),
    ("%dbml experiment AccountKey=hunter2", "hunter2"),
    ("%dbml register last wine --tag password=hunter2", "hunter2"),
    ('%dbml link --to"ken" hunter2', "hunter2"),
    ("%%track run --token hunter2\npass", "hunter2"),
    ("%%track --tag api_key=hunter2\npass", "hunter2"),
]


@pytest.mark.parametrize(("line", "secret"), LINES, ids=[line.partition("\n")[0] for line, _ in LINES])
def test_a_secret_is_refused_and_never_shown(
    shell: Shell, capsys: pytest.CaptureFixture[str], line: str, secret: str
) -> None:
    with pytest.raises(SecretRefused) as refused:
        shell.run(line)
    shown = capsys.readouterr()
    assert secret not in shown.out + shown.err + str(refused.value) + "\n".join(refused.value.lines())
    assert shell["fake"].calls == []


def test_the_refusal_says_where_a_secret_belongs(shell: Shell) -> None:
    with pytest.raises(SecretRefused) as refused:
        shell.run("%dbml link --token x")
    shown = "\n".join(refused.value.lines())
    for place in (
        "DBML_DATABRICKS_TOKEN",
        "DBML_AZUREML_TOKEN",
        "DBML_<ROLE>_USERNAME",
        "databricks://PROFILE",
    ):
        assert place in shown


def test_a_secret_in_a_variable_is_refused_too(shell: Shell) -> None:
    shell.ip.user_ns["uri"] = "http://me:hunter2@host"
    with pytest.raises(SecretRefused) as refused:
        shell.run("%dbml link --databricks $uri")
    assert "hunter2" not in "\n".join(refused.value.lines())


def test_an_unknown_option_is_named_without_its_value(shell: Shell) -> None:
    for line in ("%dbml link --passage hunter2", "%dbml link -phunter2", "%dbml link --x=hunter2"):
        with pytest.raises(Exception) as refused:  # noqa: PT011 - whichever error it is
            shell.run(line)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "harmless",
    [
        "tokenizer=bpe",
        "max_tokens=512",
        "http://127.0.0.1:5000",
        "https://host/path?x=1",
        "databricks://PROFILE",
        "azureml://westeurope.api.azureml.ms/mlflow/v1.0/subscriptions/0/resourceGroups/rg",
        "sqlite:////home/me@work/mlflow.db",
        "models:/wine@champion",
        "metrics.accuracy > 0.9 and params.token = 'x'",
        "0123456789abcdef0123456789abcdef",
    ],
)
def test_what_only_resembles_a_secret_passes(harmless: str) -> None:
    assert not looks_secret(harmless)


def test_options_named_after_secrets_are_known() -> None:
    for name in ("--token", "--password", "--pat", "--secret", "--client-secret", "--sas", "--api-key"):
        assert is_secret_option(name)
    for name in ("--path", "--to", "--tag", "--track", "--params", "--key-vault", "--storage-account"):
        assert not is_secret_option(name)
