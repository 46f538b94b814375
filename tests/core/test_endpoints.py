"""Endpoints on this machine: real models behind real servers, asked as any program would ask them."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

import dbml_magics as dbml
from dbml_magics.common.hints import Remedy
from dbml_magics.core import processes
from dbml_magics.core.endpoints import base, checks, exact, payload, reading, scoring, settings
from dbml_magics.core.endpoints.server import BODY_LIMIT
from dbml_magics.core.model.mlmodel import MLmodel
from dbml_magics.results.endpoints import Endpoint, EndpointsResult
from tests.core.linking import child, finish
from tests.infra.proxy import Proxy
from tests.infra.wait import eventually

# MLflow about models whose predict has no type hints.
pytestmark = pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method:UserWarning")

X = pd.DataFrame({"depth": [0.1, 0.25, 1 / 3, 1e-17], "rate": [1.0, 2.0, 3.5, 1e9]}, index=list("wxyz"))


def log_code(code: str, **options: Any) -> Any:
    """Log a model that is this code; what MLflow advises about it is not the matter here."""
    Path("code.py").write_text(f"import mlflow, os, time\n{textwrap.dedent(code)}")
    with warnings.catch_warnings(), mlflow.start_run():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.log_model(
            name="model", python_model="code.py", pip_requirements=["mlflow"], **options
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the home that all endpoints of these tests share; none of them is left at the end."""
    place = tmp_path_factory.mktemp("endpoints")
    (place / "work").mkdir()
    yield place
    os.environ["DBML_HOME"] = str(place / "home")
    try:
        for endpoint in all_endpoints():
            dbml.undeploy(endpoint.name)
        assert not list((place / "home" / "endpoints").glob("*/endpoint.json"))
    finally:
        del os.environ["DBML_HOME"]


@pytest.fixture(autouse=True)
def _linked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_HOME", str(place / "home"))
    monkeypatch.chdir(place / "work")
    dbml.link(local=True)


@pytest.fixture(scope="module")
def fitted() -> list[Any]:
    """Return two fitted models."""
    from sklearn.linear_model import LinearRegression

    y = 2 * X.depth + 3 * X.rate
    return [LinearRegression().fit(X, y), LinearRegression().fit(X, y + 10)]


@pytest.fixture
def wine(place: Path, fitted: list[Any]) -> list[Any]:
    """Register the two models once, and return them."""
    if not (place / "registered").exists():
        for model in fitted:
            with mlflow.start_run():
                mlflow.sklearn.log_model(
                    model,
                    name="model",
                    signature=infer_signature(X, model.predict(X)),
                    pip_requirements=["scikit-learn"],
                    registered_model_name="wine",
                )
        mlflow.MlflowClient().set_registered_model_alias("wine", "champion", "1")
        dbml.sync(60)
        (place / "registered").touch()
    return fitted


@pytest.fixture
def served(wine: list[Any]) -> Any:
    """Return the endpoint with the first model, deployed once for all tests."""
    return dbml.deploy("wine/1", to="local", name="wine", deployment="wine", traffic=100)


def the_endpoint(name: str) -> Endpoint:
    """Return the endpoint of that name."""
    found = dbml.endpoints(name)
    assert isinstance(found, Endpoint)
    return found


def all_endpoints() -> EndpointsResult:
    """Return all endpoints."""
    found = dbml.endpoints()
    assert isinstance(found, EndpointsResult)
    return found


def key_of(name: str) -> str:
    return (Path(os.environ["DBML_HOME"]) / "endpoints" / name / "key").read_text()


def post(uri: str | None, body: Any, *, key: str | None = None, **headers: str) -> requests.Response:
    """Ask as any program would."""
    assert uri is not None
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return requests.post(uri, json=body, headers=headers, timeout=60)


def pids(name: str) -> list[int]:
    """Return the ids of an endpoint's processes, the server's first."""
    folder = Path(os.environ["DBML_HOME"]) / "endpoints" / name
    written = json.loads((folder / "endpoint.json").read_text())
    state = json.loads((folder / "state.json").read_text())
    return [written["pid"], *(pid for each in state["deployments"] for pid in each["pids"])]


def gone(each: int) -> bool:
    return processes.start_of(each) is None


def split(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "columns": list(frame.columns),
        "index": list(range(len(frame))),
        "data": frame.to_numpy().tolist(),
    }


# --- deploying and asking


def test_a_registered_model_is_served_to_whoever_has_the_key(served: Any, wine: list[Any]) -> None:
    expected = wine[0].predict(X).tolist()
    assert served.endpoint.state == "ready"
    assert served.uri.startswith("http://127.0.0.1:")
    assert post(served.uri, {"input_data": split(X)}).status_code == 401
    assert post(served.uri, {"input_data": split(X)}, key="wrong").status_code == 401
    key = key_of("wine")
    answer = post(served.uri, {"input_data": split(X)}, key=key)
    assert answer.json() == expected, "to the bit, and a bare list as Azure ML answers"
    assert answer.headers["azureml-model-deployment"] == "wine"
    assert post(served.uri, {"input_data": X.to_dict("records")}, key=key).json() == expected
    assert post(served.uri, {"input_data": X.to_numpy().tolist()}, key=key).json() == expected
    invocations = served.uri.replace("/score", "/invocations")
    for body in (
        {"dataframe_split": split(X)},
        {"dataframe_records": X.to_dict("records")},
        {"inputs": X.to_dict("list")},
        {"instances": X.to_dict("records")},
    ):
        assert post(invocations, body, key=key).json() == {"predictions": expected}, body
        assert post(served.uri, body, key=key).json() == {"predictions": expected}
    csv = requests.post(
        invocations,
        data=X.to_csv(index=False),
        headers={"Content-Type": "text/csv", "Authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert csv.json() == {"predictions": expected}


def test_the_server_tells_its_health_and_its_format_and_nothing_to_strangers(served: Any) -> None:
    root = served.uri.removesuffix("/score")
    assert requests.get(f"{root}/health", timeout=60).status_code == 200
    assert requests.get(f"{root}/swagger.json?version=3", timeout=60).status_code == 401
    key = {"Authorization": f"Bearer {key_of('wine')}"}
    payload = requests.get(f"{root}/swagger.json?version=3", headers=key, timeout=60).json()
    wanted = payload["components"]["schemas"]["ServiceInput"]["properties"]["input_data"]
    assert wanted["properties"]["columns"]["items"]["enum"] == ["depth", "rate"]
    assert requests.get(f"{root}/version", headers=key, timeout=60).text == mlflow.__version__
    assert requests.get(f"{root}/score", headers=key, timeout=60).status_code == 405
    assert requests.get(f"{root}/nothing", headers=key, timeout=60).status_code == 404
    assert requests.get(f"{root}/admin", headers=key, timeout=60).status_code == 401, (
        "its owner's key is another"
    )
    assert requests.get(f"{root}/health", headers={"Host": "evil.example"}, timeout=60).status_code == 421
    assert (
        post(served.uri, {"input_data": []}, **key, **{"azureml-model-deployment": "none"}).status_code == 404
    )


FORMS: dict[str, Any] = {
    "split": {"dataframe_split": {"columns": ["r", "n"], "data": [["AP8B", 2**53 + 1], ["", 2]]}},
    "records": {"dataframe_records": [{"r": "AP8B", "n": 2**53 + 1}, {"r": "", "n": 2}]},
    "inputs by column": {"inputs": {"r": ["AP8B", ""], "n": [2**53 + 1, 2]}},
    "inputs by row": {"inputs": [{"r": "AP8B", "n": 2**53 + 1}, {"r": "", "n": 2}]},
    "inputs as lists": {"inputs": [["AP8B", 2**53 + 1], ["", 2]]},
    "instances": {"instances": [{"r": "AP8B", "n": 2**53 + 1}, {"r": "", "n": 2}]},
    "instances as lists": {"instances": [["AP8B", 2**53 + 1], ["", 2]]},
    "columns, index, data": {
        "input_data": {"columns": ["r", "n"], "index": [7, 8], "data": [["AP8B", 2**53 + 1], ["", 2]]}
    },
    "rows": {"input_data": [["AP8B", 2**53 + 1], ["", 2]]},
    "records of Azure": {"input_data": [{"r": "AP8B", "n": 2**53 + 1}, {"r": "", "n": 2}]},
    "columns of Azure": {"input_data": {"r": ["AP8B", ""], "n": [2**53 + 1, 2]}},
}


def test_every_form_of_a_request_is_read_with_the_schema_and_its_params_are_the_models() -> None:
    columns = Schema([ColSpec("binary", "r"), ColSpec("long", "n")])
    params = ParamSchema([ParamSpec("scale", "long", 1)])
    uri = log_code(
        """
        import pandas as pd

        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                if (model_input.n == 13).any():
                    raise ValueError("unlucky")
                reversed_bytes = [r[::-1] for r in model_input.r]
                return pd.DataFrame({"r": reversed_bytes, "n": model_input.n * params["scale"]})
        mlflow.models.set_model(Model())
        """,
        signature=ModelSignature(columns, columns, params),
    ).model_uri
    made = dbml.deploy(uri, to="local", name="forms")
    key = key_of("forms")

    def refused(body: Any, status: int = 400) -> str:
        answer = post(made.uri, body, key=key)
        assert answer.status_code == status, answer.text
        return str(answer.json()["message"])

    try:
        for form, body in FORMS.items():
            answer = post(made.uri, {**body, "params": {"scale": 3}}, key=key).json()
            rows = answer["predictions"] if isinstance(answer, dict) else answer
            found = [(base64.b64decode(row["r"]), row["n"]) for row in rows]
            assert found == [(b"\x01\xff\x00", 3 * (2**53 + 1)), (b"", 6)], form
        frame = pd.DataFrame({"r": [b"\x00\xff\x01", b""], "n": [2**53 + 1, 2]})
        expected = [b"\x01\xff\x00", b""]
        answered = dbml.invoke("forms", frame, params={"scale": 3}).predictions
        assert (answered.r.tolist(), answered.n.tolist()) == (expected, [3 * (2**53 + 1), 6])
        for written in FORMS.values():
            whole = dbml.invoke("forms", json.dumps({**written, "params": {"scale": 2}})).predictions
            assert [(row["r"], row["n"]) for row in whole] == [(expected[0], 2 * (2**53 + 1)), (b"", 4)]
        for cell, said in (
            ([["AP8B", 1], ["AP8B", 1.5]], "row 1, column n: 1.5 is no whole number"),
            ([["AP8B", 1], ["?", 1]], "row 1, column r: '?' is no base64"),
            ([["AP8B", 2**63]], "row 0, column n: 9223372036854775808 is beyond what long holds"),
            ([["AP8B", None]], "row 0, column n: a null"),
        ):
            for form in ("inputs", "instances", "input_data"):
                assert said in refused({form: cell}), (form, cell)
        for given, said in (
            ({"scal": 3}, "no param 'scal'; it takes scale (long). Did you mean 'scale'?"),
            ({"scale": "3"}, "param scale is text, and the model wants long"),
            ([3], "a list is given"),
        ):
            for body in (FORMS["rows"], FORMS["split"]):
                assert said in refused({**body, "params": given})
        assert "(row 1, column n)" in refused({"inputs": [["", 1], ["", 13], ["", 2]]}, 500)
        with pytest.raises(dbml.BadData, match="given twice"):
            dbml.invoke("forms", {**FORMS["rows"], "params": {"scale": 2}}, params={"scale": 3})
        with pytest.raises(dbml.BadData, match="no param 'scal'"):
            dbml.invoke("forms", frame, params={"scal": 2})
    finally:
        dbml.undeploy("forms")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([1, 2], "input_data"),
        ({"input_data": {"columns": ["depth"], "data": [[1.0]]}}, "rate"),
        ({"input_data": [[1.0]]}, "rows of 2 values are wanted: depth, rate"),
        ({"input_data": {"columns": ["depth", "rate"], "data": [["x", 1.0]]}}, "x"),
        ({"instances": 3}, ""),
    ],
)
def test_a_bad_request_is_the_callers_fault_and_says_why(served: Any, body: Any, said: str) -> None:
    answer = post(served.uri, body, key=key_of("wine"))
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["message"]


def _deep(opening: str, closing: str, depth: int = 100_000) -> str:
    return opening * depth + "1" + closing * depth


DEEP = {
    "brackets": _deep("[", "]"),
    "brackets without an end": "[" * 100_000,
    "braces": _deep('{"a":', "}"),
    "both": _deep('[{"a":', "}]"),
    "as rows": f'{{"input_data": {_deep("[", "]")}}}',
    "as a value": f'{{"input_data": {{"columns": ["depth", "rate"], "data": [[{_deep("[", "]")}, 1]]}}}}',
    "less than the parser minds": f'{{"input_data": {_deep("[", "]", 900)}}}',
    "as records": f'{{"input_data": [{{"depth": {_deep("[", "]", 900)}, "rate": 1}}]}}',
    "as params": f'{{"input_data": [[1, 2]], "params": {_deep("[", "]")}}}',
    "as instances": f'{{"instances": {_deep("[", "]")}}}',
    "as a split": f'{{"dataframe_split": {_deep("[", "]")}}}',
    "as inputs, less": f'{{"inputs": {_deep("[", "]", 900)}}}',
    "after strings": f'{{"a": "[[{{{{\\\\", "input_data": {_deep("[", "]")}}}',
}


@pytest.mark.parametrize("how", DEEP)
@pytest.mark.parametrize("path", ["/score", "/invocations"])
def test_deep_nesting_is_the_callers_fault(served: Any, wine: list[Any], how: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {key_of('wine')}", "Content-Type": "application/json"}
    uri = served.uri.removesuffix("/score") + path
    answer = requests.post(uri, data=DEEP[how], headers=headers, timeout=60)
    assert answer.status_code == 400, f"{how} at {path}: {answer.status_code} {answer.text[:300]}"
    answer = post(served.uri, {"input_data": split(X)}, key=key_of("wine"))
    assert answer.json() == wine[0].predict(X).tolist(), "and the model goes on"


def test_a_models_own_recursion_is_the_models_fault(wine: list[Any]) -> None:
    uri = log_code(
        """
        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return self.predict(context, model_input, params)
        mlflow.models.set_model(Model())
        """
    ).model_uri
    made = dbml.deploy(uri, to="local", name="recursing")
    try:
        answer = post(made.uri, {"input_data": [[1.0]]}, key=key_of("recursing"))
        assert answer.status_code == 500
        assert "RecursionError" in answer.json()["message"]
    finally:
        dbml.undeploy("recursing")


@pytest.mark.parametrize("data", [DEEP["brackets"], DEEP["as rows"], DEEP["braces"]])
def test_deep_data_is_not_sent(served: Any, data: str) -> None:
    with pytest.raises(dbml.errors.BadData):
        dbml.invoke("wine", data=data)


def _until_closed(
    said: bytes, port: int, drip: bytes, found: dict[str, tuple[float, bytes]], how: str
) -> None:
    """Connect, say something, then drip a byte a second; note when the server closes, and its last words."""
    began = time.monotonic()
    answered = b""
    with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(said)
        while time.monotonic() - began < 170:
            try:
                if drip:
                    connection.sendall(drip)
                part = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                part = b""
            answered += part
            if not part:
                found[how] = (time.monotonic() - began, answered)
                return
            time.sleep(0.2)


@pytest.mark.full
def test_nobody_holds_a_connection_without_asking(served: Any, wine: list[Any]) -> None:
    port = int(served.uri.rpartition(":")[2].partition("/")[0])
    key = key_of("wine").encode()
    head = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer " + key + b"\r\n"
    ways = {
        "silence": (b"", b""),
        "a head that never ends": (head, b""),
        "a head byte by byte": (head + b"X-Slow: ", b"a"),
        "empty lines": (b"", b"\r\n"),
        "a body that never comes": (head + b"Content-Length: 1000\r\n\r\n", b""),
        "a body byte by byte": (head + b"Content-Length: 100000\r\n\r\n{", b" "),
        "chunks without end": (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        "a body nobody wants": (
            head.replace(b"/score", b"/nothing") + b"Content-Length: 90000\r\n\r\n",
            b"x",
        ),
        "a stranger's body": (
            b"POST /score HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 90000\r\n\r\n",
            b"x",
        ),
        "silence after an answer": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", b""),
        "a second head that never ends": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\nGET /he", b"a"),
    }
    found: dict[str, tuple[float, bytes]] = {}
    threads = [
        threading.Thread(target=_until_closed, args=(said, port, drip, found, how))
        for how, (said, drip) in ways.items()
    ]
    for thread in threads:
        thread.start()
    for _ in range(20):  # whoever asks is answered meanwhile
        answer = post(served.uri, {"input_data": split(X)}, key=key_of("wine"))
        assert answer.json() == wine[0].predict(X).tolist()
    for thread in threads:
        thread.join(180)
    assert found.keys() == ways.keys(), f"still open: {ways.keys() - found.keys()}"
    for how, (seconds, answered) in found.items():
        most = 90 if how in ("a body byte by byte", "chunks without end") else 40
        assert seconds < most, f"{how}: closed after {seconds:.0f} s only"
        if "body" in how and "no" not in how:
            assert answered.startswith((b"HTTP/1.1 408", b"HTTP/1.1 401")), f"{how}: {answered[:200]!r}"


def test_a_body_is_bounded_whether_its_length_is_told_or_not(served: Any) -> None:
    headers = {"Authorization": f"Bearer {key_of('wine')}", "Content-Type": "application/json"}

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 2**20

    for data in (endless(), b" " * (BODY_LIMIT + 1)):
        try:
            answer = requests.post(served.uri, data=data, headers=headers, timeout=60)
        except requests.exceptions.ConnectionError:
            continue  # it closed while we went on sending
        assert answer.status_code == 413


def test_predictions_have_the_shape_of_the_data(served: Any, wine: list[Any], tmp_path: Path) -> None:
    expected = wine[0].predict(X)
    answered = dbml.invoke("wine", X)
    pd.testing.assert_series_equal(answered.predictions, pd.Series(expected, X.index, name="prediction"))
    shuffled = dbml.invoke("wine", X[["rate", "depth"]].assign(more=1)).predictions
    assert (shuffled.to_numpy() == expected).all()
    row = dbml.invoke("wine", X.iloc[1]).predictions
    assert isinstance(row, float)
    assert row == expected[1]
    array = dbml.invoke("wine", X.to_numpy()).predictions
    assert isinstance(array, np.ndarray)
    assert (array == expected).all()
    assert dbml.invoke("wine", X.to_numpy().tolist()).predictions == expected.tolist()
    assert dbml.invoke("wine", X.iloc[0].tolist()).predictions == expected[0]
    assert dbml.invoke("wine", X.to_dict("records")).predictions == expected.tolist()
    assert dbml.invoke("wine", X.to_dict("list")).predictions == expected.tolist()
    assert dbml.invoke("wine", {"depth": 0.1, "rate": 1}).predictions == expected[0]
    written = json.dumps({"input_data": split(X)})
    assert dbml.invoke("wine", written).predictions == expected.tolist()
    for name, content in (
        ("rows.json", written),
        ("rows.csv", X.to_csv(index=False)),
        ("rows.jsonl", "\n".join(json.dumps(each) for each in X.to_dict("records"))),
    ):
        (tmp_path / name).write_text(content)
        assert list(dbml.invoke("wine", tmp_path / name)) == expected.tolist(), name
    X.to_parquet(tmp_path / "rows.parquet")
    assert list(dbml.invoke("wine", str(tmp_path / "rows.parquet"))) == expected.tolist()
    assert np.asarray(answered).tolist() == expected.tolist()
    assert "not sent, since the model does not know them: more" in str(dbml.invoke("wine", X.assign(more=1)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (X[["depth"]], "lacks 1 of the model's 2 columns: 'rate' (double)"),
        (X.rename(columns={"rate": "rates"}), "is it 'rates' here?"),
        (X.assign(rate="a"), "rate is text, and the model wants double"),
        (X.assign(rate=True), "rate is bool"),
        ([[1.0, 2.0, 3.0]], "wants 2 values a row (depth, rate), and the data has 3 in a row"),
        ({"depth": [1.0], "rate": [1.0, 2.0]}, "the dict is no table"),
        (X[:0], "no rows"),
        (pd.concat([X, X], axis=1), "more than one column depth, rate"),
        ("nonsense", "neither JSON nor a file"),
        ("{'depth': 1}", "not JSON"),
        (Path("absent.csv"), "No such file"),
        (Path("absent.xlsx"), "no file that is known here"),
        (object(), "an object"),
    ],
)
def test_data_that_does_not_fit_is_not_sent(served: Any, data: Any, said: str) -> None:
    before = dbml.endpoints("wine").deployments[0].requests  # type: ignore[union-attr]
    with pytest.raises(dbml.BadData) as refused:
        dbml.invoke("wine", data)
    assert said in str(refused.value)
    assert refused.value.remedies
    assert dbml.endpoints("wine").deployments[0].requests == before  # type: ignore[union-attr]


def test_a_large_batch_goes_in_several_requests(
    served: Any, wine: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbml_magics.core.endpoints import local

    monkeypatch.setattr(local, "_REQUEST_LIMIT", 20_000)
    many = pd.concat([X] * 500, ignore_index=True)
    lines: list[str] = []
    answered = dbml.invoke("wine", many, progress=lines.append)
    assert answered.requests > 2
    assert (answered.predictions.to_numpy() == wine[0].predict(many)).all()
    assert any("of 2,000 rows" in line for line in lines)
    monkeypatch.setattr(local, "_REQUEST_LIMIT", 30)
    with pytest.raises(dbml.BadData, match="one row is too much for a request"):
        dbml.invoke("wine", many)


# --- several deployments


@pytest.mark.full
def test_blue_and_green_are_two_commands_and_going_back_is_one(served: Any, wine: list[Any]) -> None:
    old, new = (model.predict(X)[0] for model in wine)
    beside = dbml.deploy("wine/2", to="local", name="wine", deployment="green")
    assert beside.endpoint.traffic == {"wine": 100, "green": 0}
    assert "green gets 0 % of the requests" in str(beside)
    assert dbml.invoke("wine", X).predictions.iloc[0] == old
    assert dbml.invoke("wine", X, deployment="green").predictions.iloc[0] == new
    before = pids("wine")
    over = dbml.deploy("wine/2", to="local", name="wine", deployment="green", traffic=100)
    assert over.changed == "traffic"
    assert over.endpoint.traffic == {"wine": 0, "green": 100}
    assert dbml.invoke("wine", X).predictions.iloc[0] == new
    shared = dbml.deploy("wine/1", to="local", name="wine", deployment="wine", traffic=30)
    assert shared.endpoint.traffic == {"wine": 30, "green": 70}
    answered = {dbml.invoke("wine", X).deployment for _ in range(60)}
    assert answered == {"wine", "green"}
    back = dbml.deploy("wine/1", to="local", name="wine", deployment="wine", traffic=100)
    assert dbml.invoke("wine", X).predictions.iloc[0] == old
    assert pids("wine") == before, "nothing was started again"
    assert "nothing to do" in str(dbml.deploy("wine/1", to="local", name="wine", deployment="wine"))

    with pytest.raises(dbml.BadCommand, match="which one") as vague:
        dbml.deploy("wine/1", to="local", name="wine")
    assert vague.value.remedies[1][0] == "%dbml deploy wine/1 --to local --name wine --deployment green"
    with pytest.raises(dbml.BadCommand, match="gets 100 % of the requests"):
        dbml.undeploy("wine", deployment="wine")
    with pytest.raises(dbml.BadCommand, match="leaves all requests to nobody"):
        dbml.deploy("wine/1", to="local", name="wine", deployment="wine", traffic=0)
    assert dbml.undeploy("wine", deployment="green").deployments == ("green",)
    assert back.endpoint.deployment("green") is not None
    assert [d.name for d in dbml.endpoints("wine").deployments] == ["wine"]  # type: ignore[union-attr]
    with pytest.raises(dbml.BadCommand, match="leaves 90 % of the requests to nobody"):
        dbml.deploy("wine/1", to="local", name="wine", traffic=10)


@pytest.mark.full
def test_what_a_line_does_not_name_stays_so_that_traffic_moves_at_once(
    wine: list[Any], tmp_path: Path
) -> None:
    model = log_code(
        """
        class Telling(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return [os.environ.get("A", "") + os.environ.get("B", "")] * len(model_input)
        mlflow.models.set_model(Telling())
        """,
        signature=ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("string")])),
    ).model_uri
    config = tmp_path / "deploy.yaml"

    def served_by(**options: Any) -> Any:
        return dbml.deploy(model, to="local", name="kept", **options)

    def said(deployment: str) -> str:
        return str(dbml.invoke("kept", {"x": 1.0}, deployment=deployment).predictions)

    served_by(deployment="blue")
    config.write_text("environment_variables: {A: a, B: b}\nrequest_settings: {request_timeout_ms: 5000}\n")
    served_by(deployment="green", config=config, instance_count=2)
    before = pids("kept")
    over = served_by(deployment="green", traffic=100)
    assert (over.changed, over.endpoint.deployment("green").count) == ("traffic", 2)
    back = served_by(deployment="blue", traffic=100)
    assert back.changed == "traffic"
    assert served_by(deployment="green", config=config).changed == "nothing"
    assert pids("kept") == before, "nothing was started again"
    assert said("green") == "ab"
    config.write_text("environment_variables: {B: c}\n")
    changed = served_by(deployment="green", config=config)
    assert (changed.changed, changed.endpoint.deployment("green").count) == ("updated", 2)
    assert said("green") == "ac", "the variable that is not named stays"
    kept = (Path(os.environ["DBML_HOME"]) / "endpoints" / "kept" / "state.json").read_text()
    payload = next(each["told"] for each in json.loads(kept)["deployments"] if each["name"] == "green")
    assert payload["timeout_s"] == 5.0
    assert "environment" not in payload
    dbml.undeploy("kept")


@pytest.mark.full
def test_an_update_in_place_leaves_no_request_without_an_answer(served: Any, wine: list[Any]) -> None:
    key, body = key_of("wine"), {"input_data": split(X[:1])}
    over = threading.Event()
    seen: list[tuple[int, Any]] = []

    def ask() -> None:
        with requests.Session() as connection:
            while not over.is_set():
                answer = connection.post(
                    served.uri, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60
                )
                seen.append((answer.status_code, answer.json()))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        updated = dbml.deploy("wine/2", to="local", name="wine")
        count = len(seen)
        eventually(lambda: len(seen) > count + 5, "it is asked after the update too")
    finally:
        over.set()
        asking.join()
        restored = dbml.deploy("wine@champion", to="local", name="wine")
    assert updated.changed == "updated"
    assert {status for status, _ in seen} == {200}
    old, new = (model.predict(X)[0] for model in wine)
    assert seen[0][1] == [old]
    assert seen[-1][1] == [new]
    assert "wine@champion is version 1 now" in str(restored)
    folder = Path(os.environ["DBML_HOME"]) / "endpoints" / "wine" / "models"
    eventually(lambda: len(list(folder.iterdir())) <= 2, "files of models that are gone are gone")


# --- who finds it again


def test_another_kernel_finds_it_asks_it_and_status_shows_it(served: Any, wine: list[Any]) -> None:
    script = """
        import sys
        import dbml_magics as dbml
        found = dbml.endpoints("wine")
        print(found.state, dbml.invoke("wine", [[0.1, 1.0]]).predictions, "mlflow" in sys.modules)
    """
    state, value, heavy = finish(child(script)).split()
    assert (state, value) == ("ready", repr([wine[0].predict(X[:1]).tolist()[0]]))
    assert heavy == "False", "asking needs no MLflow"
    line = next(note for note in dbml.status().notes if note.startswith("endpoint wine"))
    assert "(local) ready: wine/1, 1 × " in line
    assert "%dbml undeploy wine ends it" in line


def test_what_is_kept_is_the_users_own_and_the_key_is_shown_nowhere(served: Any) -> None:
    folder = Path(os.environ["DBML_HOME"]) / "endpoints" / "wine"
    eventually(lambda: not list(folder.glob(".*")), "nothing is being written")
    modes = {p.relative_to(folder).as_posix(): oct(p.stat().st_mode & 0o777) for p in folder.iterdir()}
    logs = {p.name: oct(p.stat().st_mode & 0o777) for p in (folder / "logs").iterdir()}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert {modes[name] for name in ("endpoint.json", "key", "state.json")} == {"0o600"}
    assert set(logs.values()) == {"0o600"}
    key = key_of("wine")
    shown = [
        str(served),
        served.html(),
        str(dbml.endpoints()),
        str(dbml.status()),
        repr(dbml.invoke("wine", X)),
    ]
    assert not any(key in text for text in shown)
    assert not any(key in path.read_text() for path in (folder / "logs").iterdir())
    for pid in pids("wine"):
        assert key not in Path(f"/proc/{pid}/environ").read_text(errors="replace")
        assert key not in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def test_the_log_says_what_was_asked_and_how_it_went(served: Any) -> None:
    dbml.invoke("wine", X)
    post(served.uri, {"input_data": [[1.0]]}, key=key_of("wine"))
    lines = dbml.logs("wine", lines=4)
    assert any("INFO POST /score 200" in line for line in lines)
    assert any("ERROR POST /score 400" in line for line in lines)
    assert str(lines).startswith("Log of wine, deployment wine (local)")
    for strange in ("../endpoints/wine", "wine/", ".", "nothing"):
        with pytest.raises(dbml.EndpointNotFound):
            dbml.logs(strange)
    with pytest.raises(dbml.EndpointNotFound, match="it has wine"):
        dbml.logs("wine", deployment="green")


@pytest.mark.full
def test_an_endpoint_whose_process_was_killed_is_shown_and_comes_back(served: Any, wine: list[Any]) -> None:
    before, uri = pids("wine"), served.uri
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: all(gone(pid) for pid in before), "its deployments end with the server")
    stopped = dbml.endpoints("wine")
    assert isinstance(stopped, type(served.endpoint))
    assert stopped.state == "stopped"
    assert "endpoint wine (local) stopped" in str(dbml.status())
    with pytest.raises(dbml.EndpointNotFound, match="is stopped"):
        dbml.invoke("wine", X)
    again = dbml.deploy("wine/1", to="local", name="wine")
    assert again.endpoint.state == "ready"
    assert again.uri == uri, "the address is the same"
    assert dbml.invoke("wine", X).predictions.iloc[0] == wine[0].predict(X)[0]


# --- models that misbehave


@pytest.fixture
def doubling(place: Path) -> Any:
    """Return an endpoint with a model that does what its rows ask for, deployed once for all tests."""
    if not (place / "doubling").exists():
        (place / "doubling").touch()
        log_code(
            """
            class Doubling(mlflow.pyfunc.PythonModel):
                def predict(self, context, model_input, params=None):
                    asked = model_input["x"].tolist()
                    if "fail" in asked:
                        raise ValueError("the model does not like this row")
                    if "die" in asked:
                        os._exit(9)
                    if "wait" in asked:
                        time.sleep(1.5)
                    return [value * 2 for value in asked]

            mlflow.models.set_model(Doubling())
            """,
            signature=ModelSignature(inputs=Schema([ColSpec("string", "x")])),
        )
        config = Path("doubling.yaml")
        config.write_text(
            "auth_mode: none\nrequest_settings:\n  request_timeout_ms: 700\n"
            "  max_concurrent_requests_per_instance: 2\nenvironment_variables:\n  A: b\n"
            "instance_type: Standard_DS3_v2\n"
        )
        return dbml.deploy("last", to="local", name="double", config=config, instance_count=2)
    return dbml.endpoints("double")


@pytest.mark.full
def test_a_model_that_fails_dies_or_dawdles_takes_nothing_with_it(doubling: Any) -> None:
    assert "instance_type means nothing on this machine" in str(doubling)
    assert "none: anybody who reaches the address may ask" in str(doubling)
    uri, two = doubling.uri, pids("double")[1:]
    assert len(two) == 2
    assert dbml.invoke("double", ["a", "b"]).predictions == ["aa", "bb"], "no key is asked for"
    assert dbml.invoke("double", pd.Series(["a"], name="x")).predictions.tolist() == ["aa"]
    with pytest.raises(dbml.ScoringFailed, match="the model does not like this row") as failed:
        dbml.invoke("double", ["fail"])
    assert failed.value.remedies[0][0] == "%dbml logs double"
    assert any("ValueError: the model does not like this row" in line for line in dbml.logs("double"))

    pairs = [threading.Thread(target=post, args=(uri, {"input_data": [["wait"]]})) for _ in range(3)]
    for each in pairs:
        each.start()
    assert dbml.invoke("double", ["a"]).predictions == ["aa"], "a place is left: two processes take two each"
    for each in pairs:
        each.join()
    late = post(uri, {"input_data": [["wait"]]})
    assert late.status_code == 408
    assert "longer than 0.7 s" in late.json()["message"]
    with pytest.raises(dbml.BadData, match="one row takes the model longer than a request may last"):
        dbml.invoke("double", ["wait"])
    assert dbml.invoke("double", ["a"]).predictions == ["aa"]

    with pytest.raises(dbml.ScoringFailed, match="process ended while it answered"):
        dbml.invoke("double", ["die"])
    assert dbml.invoke("double", ["a"]).predictions == ["aa"], "the other one answers"
    eventually(
        lambda: len([pid for pid in _now("double") if not gone(pid)]) == 2 and _now("double") != two,
        "the one that died is started again",
    )
    assert any("the process ended with 9" in line for line in dbml.logs("double", lines=200))
    dbml.undeploy("double")
    eventually(lambda: all(gone(pid) for pid in two), "nothing is left running")
    with pytest.raises(dbml.EndpointNotFound):
        dbml.endpoints("double")


def _now(name: str) -> list[int]:
    from dbml_magics.core.endpoints import local

    server = local._read(name)
    assert server is not None
    state = server.state()
    assert state is not None
    return [int(pid) for each in state["deployments"] for pid in each["pids"]]


@pytest.fixture
def unloadable(place: Path) -> str:
    """Return the URI of a model that cannot be loaded."""
    kept = place / "unloadable"
    if not kept.exists():
        found = log_code(
            """
            class Unloadable(mlflow.pyfunc.PythonModel):
                def load_context(self, context):
                    import a_package_that_nobody_has

                def predict(self, context, model_input, params=None):
                    return model_input

            mlflow.models.set_model(Unloadable())
            """
        )
        kept.write_text(found.model_id)
    return kept.read_text()


def test_a_deployment_that_fails_shows_its_log_and_leaves_what_was_there(
    served: Any, unloadable: str, wine: list[Any]
) -> None:
    with pytest.raises(dbml.DeploymentFailed) as failed:
        dbml.deploy(unloadable, to="local", name="broken")
    shown = str(failed.value)
    assert "likely cause: a missing package" in shown
    assert "ModuleNotFoundError: No module named 'a_package_that_nobody_has'" in shown
    with pytest.raises(dbml.EndpointNotFound):
        dbml.endpoints("broken")

    with pytest.raises(dbml.DeploymentFailed):
        dbml.deploy(unloadable, to="local", name="wine")
    still = dbml.endpoints("wine")
    assert still.deployments[0].model == "wine/1"  # type: ignore[union-attr]
    assert dbml.invoke("wine", X).predictions.iloc[0] == wine[0].predict(X)[0]
    with pytest.raises(dbml.DeploymentFailed):
        dbml.deploy(unloadable, to="local", name="wine", deployment="green")
    assert dbml.endpoints("wine").traffic == {"wine": 100}  # type: ignore[union-attr]
    dbml.deploy("wine/1", to="local", name="wine")


@pytest.mark.full
def test_without_waiting_the_state_is_asked_for(wine: list[Any], unloadable: str) -> None:
    begun = dbml.deploy("wine/1", to="local", name="later", wait=False)
    assert begun.endpoint.state in ("creating", "ready")
    assert "it continues in the background" in str(begun)
    eventually(lambda: dbml.endpoints("later").state == "ready", "it is ready")  # type: ignore[union-attr]
    assert dbml.invoke("later", X[:1]).predictions.iloc[0] == wine[0].predict(X)[0]
    dbml.undeploy("later")
    dbml.deploy(unloadable, to="local", name="later", wait=False)
    failed = eventually(
        lambda: e if (e := the_endpoint("later")).state == "failed" else None,
        "its failure is shown",
    )
    assert "its process ended" in str(failed)
    assert failed.deployments[0].model.startswith("run "), "which model it was"
    assert "likely cause: a missing package" in str(failed)
    assert "    ModuleNotFoundError: No module named 'a_package_that_nobody_has'" in str(failed)
    assert "likely cause: a missing package" in failed.html()
    assert any("a_package_that_nobody_has" in line for line in dbml.logs("later"))
    dbml.undeploy("later")


def test_an_interrupt_says_what_goes_on(wine: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from dbml_magics.core.endpoints import local

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "_wait", interrupted)
        with pytest.raises(dbml.DeploymentFailed, match="goes on by itself") as stopped:
            dbml.deploy("wine/1", to="local", name="stopped")
    assert stopped.value.remedies[0][0] == "%dbml endpoints stopped"
    assert dbml.endpoints("stopped").state in ("creating", "ready")  # type: ignore[union-attr]
    every = pids("stopped")
    dbml.undeploy("stopped")
    eventually(lambda: all(gone(pid) for pid in every), "its processes end, loading or not")


@pytest.mark.full
def test_a_killed_kernel_leaves_no_endpoint_that_nobody_sees(wine: list[Any]) -> None:
    script = """
        import os, dbml_magics as dbml
        dbml.link(again=True)
        dbml.deploy("wine/1", to="local", name="orphan", wait=False)
        os.kill(os.getpid(), 9)
    """
    process = child(script)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert "endpoint orphan (local)" in str(dbml.status())
    every = pids("orphan")
    dbml.undeploy("orphan")
    eventually(lambda: all(gone(pid) for pid in every), "nothing of it is left")


def test_an_endpoint_ends_when_its_folder_is_gone(wine: list[Any]) -> None:
    dbml.deploy("wine/1", to="local", name="homeless", wait=False)
    every = pids("homeless")
    folder = Path(os.environ["DBML_HOME"]) / "endpoints" / "homeless"
    folder.rename(folder.with_name(".gone"))
    eventually(lambda: all(gone(pid) for pid in every), "it has ended by itself")
    subprocess.run(["rm", "-r", str(folder.with_name(".gone"))], check=True)


# --- which model is meant


def test_every_way_to_name_a_model_is_understood(served: Any, wine: list[Any]) -> None:
    from dbml_magics.core import session
    from dbml_magics.core.endpoints import models

    engine = session.current().engine("this test")

    def _deploy(model: str) -> Remedy:
        return Remedy("deploy", model)

    def label(given: str, *, explicit: bool = False) -> str:
        return models.find(engine, given, None, explicit=explicit, line=_deploy).label

    version = mlflow.MlflowClient().get_model_version("wine", "2")
    run = str(version.run_id)
    model_id = mlflow.MlflowClient().get_run(run).outputs.model_outputs[0].model_id
    assert label("wine/2") == label("models:/wine/2") == label("wine") == "wine/2"
    assert label("wine@champion") == label("models:/wine@champion") == "wine/1"
    assert label(run[:10]) == label(run) == label(f"runs:/{run}/model") == f"run {run[:8]} model"
    assert label(model_id) == label(f"models:/{model_id}") == f"run {run[:8]} model"
    mlflow.MlflowClient().update_run(run, name="the second")
    assert label("the second") == label("runs:/the second/model") == f"run {run[:8]} model"
    mlflow.MlflowClient().update_run(run, name="wine")
    assert label("wine") == "wine/2", "a registered model goes before a run of its name"
    with pytest.raises(dbml.BadCommand, match="wants an explicit version") as vague:
        label("wine", explicit=True)
    assert vague.value.remedies[0][0] == "%dbml deploy wine/2"
    with pytest.raises(dbml.ModelNotFound) as misspelt:
        label("wien/1")
    assert misspelt.value.remedies[0][0] == "%dbml deploy wine/1"
    for given, error, said in (
        ("wien/1", dbml.ModelNotFound, "Did you mean 'wine'"),
        ("wine/9", dbml.ModelNotFound, "no version 9; it has 2, 1"),
        ("wine@nobody", dbml.ModelNotFound, "no alias 'nobody'"),
        ("wine/one", dbml.BadCommand, "stands a version's number"),
        ("m-00000000000000000000000000000000", dbml.ModelNotFound, "no logged model"),
        ("s3://bucket/model", dbml.BadCommand, "is no model of the link"),
        ("abcdef0123", dbml.RunNotFound, "abcdef0123"),
        (f"runs:/{run}/nothing", dbml.NoModel, "no model 'nothing'"),
    ):
        with pytest.raises(error, match=said):
            label(given)


# --- before anything is created


def test_a_bad_order_creates_nothing(wine: list[Any], tmp_path: Path) -> None:
    def refused(error: type[dbml.DbmlError], said: str, **order: Any) -> None:
        with pytest.raises(error, match=said):
            dbml.deploy(order.pop("model", "wine/1"), **{"to": "local", "name": "never", **order})
        assert "never" not in [endpoint.name for endpoint in all_endpoints()]

    refused(dbml.BadName, "3 to 32 letters", name="my_wine")
    refused(dbml.BadName, "3 to 32 letters", deployment="a")
    refused(dbml.ModelNotFound, "no version 7", model="wine/7")
    refused(dbml.BadCommand, "an AKS cluster", compute="cluster")
    refused(dbml.BadCommand, "from 0 to 100", traffic=101)
    refused(dbml.BadCommand, "from 1 on", instance_count=0)
    refused(dbml.BadCommand, "Did you mean local", to="locl")
    config = tmp_path / "deploy.yaml"
    for written, said in (
        ("instance_typo: x", "Did you mean instance_type"),
        ("endpoint_name: x", "not taken from the file"),
        ("[1, 2]", "NAME: value is wanted"),
        ("a: [", "is not YAML"),
        ("auth_mode: aad_token", "asks for a key"),
        ("request_settings: {request_timeout_ms: soon}", "whole numbers"),
        ("environment_variables: 3", "NAME: value"),
    ):
        config.write_text(written)
        refused(dbml.BadCommand, said, config=config)
    refused(dbml.BadCommand, "No such file", config=tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("name", "target", "fine"),
    [
        ("wine", "local", True),
        ("Wine-2", "online", True),
        ("Wine", "aci", False),
        ("wi", "local", False),
        ("2wine", "local", False),
        ("wine-", "aks", False),
        ("w" * 33, "online", False),
        ("wine.de", "local", False),
    ],
)
def test_names_obey_azures_rules_on_every_target(name: str, target: str, fine: bool) -> None:
    if fine:
        base.check_name(name, target=target)
        return
    with pytest.raises(dbml.BadName) as refused:
        base.check_name(name, target=target)
    offered = refused.value.remedies[0][0]
    assert isinstance(offered, Remedy)
    base.check_name(str(offered.options["name"]), target=target)


def looked(tmp_path: Path, requirements: str, cloud: bool, **flavor: Any) -> dict[str, Any]:
    """Return what is found of a model with these requirements."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "MLmodel").write_text("")
    (tmp_path / "requirements.txt").write_text(requirements)
    mlmodel: MLmodel = {
        "flavors": {"python_function": {"python_version": "3.11.7", **flavor}},
        "signature": {"inputs": "[]"},
    }
    found = checks.of_files(tmp_path, mlmodel, cloud=cloud)
    return {each.what: each for each in [*found, *checks.here(tmp_path)]}


def test_files_packages_and_python_are_looked_at_first(tmp_path: Path) -> None:
    fine = looked(tmp_path / "a", "scikit-learn\nmlflow==3.15.0  # pinned\n# a comment\n--index x", True)
    assert [each.fine for each in fine.values()].count(False) == 0
    strange = looked(
        tmp_path / "b", "mlflow-dbstore==1\nmine @ file:///dbfs/x.whl\npandas==2.0+databricks", True
    )
    assert strange["packages"].fine is False
    assert "exists on Databricks alone" in strange["packages"].said
    assert strange["packages"].said.count(",") == 2
    assert looked(tmp_path / "b", "sparkdl", False)["packages"].fine is None
    absent = looked(tmp_path / "c", "a-package-that-nobody-has==1.2", False)["packages here"]
    assert absent.fine is False
    assert "%pip install 'a-package-that-nobody-has==1.2'" in absent.said
    assert looked(tmp_path / "c", "pandas==0.1", False)["packages here"].fine is None
    assert looked(tmp_path / "d", "x", True, python_version="2.7")["python"].fine is False
    assert looked(tmp_path / "d", "x", False, python_version="3.99.1")["python"].fine is None
    assert looked(tmp_path / "e", "x", False, model_path="model.pkl")["files"].said.startswith("model.pkl")
    none = checks.of_files(tmp_path, {"flavors": {"spark": {}}}, cloud=False)
    assert none[0].fine is False
    with pytest.raises(dbml.NotDeployable, match="nothing was created") as refused:
        checks.refuse([absent], "wine/1", "%dbml deploy wine/1")
    assert refused.value.remedies[0][0] == "%pip install 'a-package-that-nobody-has==1.2'"


@pytest.mark.parametrize(
    ("conda", "pip", "cloud", "fine", "said"),
    [
        ("channels: [conda-forge]\ndependencies: [python=3.11, scikit-learn=1.5]", None, True, True, ""),
        ("dependencies: [python=3.11, pip]", None, True, False, "the image lacks its packages"),
        ("dependencies:\n- pip: [mlflow-dbstore==1]", "mlflow", True, False, "mlflow-dbstore==1 exists on"),
        (
            "channels: ['file:///dbfs/c']\ndependencies: [numpy]",
            "numpy",
            False,
            None,
            "file:///dbfs/c exists",
        ),
        ("channels: [a", "mlflow", True, False, "conda.yaml is not YAML: while parsing"),
        ("channels: [a", None, False, None, "conda.yaml is not YAML: while parsing"),
        ("[numpy]", "numpy", True, False, "not of conda's form"),
    ],
)
def test_conda_yaml_is_read_beside_requirements(
    tmp_path: Path, conda: str, pip: str | None, cloud: bool, fine: bool | None, said: str
) -> None:
    (tmp_path / "conda.yaml").write_text(conda)
    if pip is not None:
        (tmp_path / "requirements.txt").write_text(pip)
    mlmodel: MLmodel = {
        "flavors": {"python_function": {"python_version": "3.11.7"}},
        "signature": {"inputs": "[]"},
    }
    found = {each.what: each for each in checks.of_files(tmp_path, mlmodel, cloud=cloud)}
    assert ("packages" not in found) if fine else found["packages"].fine is fine
    assert fine or said in found["packages"].said
    assert all(each.fine is not False for each in checks.here(tmp_path)), "conda.yaml fails nothing here"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("ModuleNotFoundError: No module named 'lightgbm'", "a missing package"),
        ("ERROR: No matching distribution found for mlflow-dbstore==1", "(mlflow-dbstore==1)"),
        ("Code: OutOfQuota: Not enough quota available", "not enough quota"),
        ("Back-off pulling image: ImagePullBackOff", "the image cannot be pulled"),
        ("mlflow.exceptions.MlflowException: Failed to enforce schema of data", "the model's schema"),
        ("the process ended with -9", "not enough memory"),
        ("all is well", None),
    ],
)
def test_a_log_points_to_the_likely_cause(line: str, cause: str | None) -> None:
    found = checks.likely_cause(["INFO loading", line])
    assert found is None if cause is None else cause in str(found)


def test_traffic_is_shared_out_in_proportion_and_to_the_last_percent() -> None:
    assert base.shared({}, "a", 100) == {"a": 100}
    assert base.shared({"a": 100}, "b", 0) == {"a": 100}
    assert base.shared({"a": 100}, "b", 10) == {"a": 90, "b": 10}
    assert base.shared({"a": 50, "b": 25, "c": 25}, "d", 50) == {"a": 25, "b": 13, "c": 12, "d": 50}
    assert base.shared({"a": 60, "b": 40}, "b", 100) == {"b": 100}
    for given in ({"a": 33, "b": 33, "c": 34}, {"a": 1, "b": 98, "c": 1}):
        for percent in range(101):
            assert sum(base.shared(given, "d", percent).values()) == 100


@pytest.mark.parametrize(
    ("legal", "written", "said"),
    [
        (
            "MANAGED",
            "request_settings: {request_timout_ms: 5}",
            "request_settings knows nothing of 'request_tim",
        ),
        ("MANAGED", "request_settings: {request_timout_ms: 5}", "Did you mean request_timeout_ms?"),
        ("MANAGED", "liveness_probe: {initialdelay: 3}", "Did you mean initial_delay?"),
        (
            "ONLINE",
            "scale_settings: {max_instance: 3}",
            "It takes max_instances, min_instances, polling_inter",
        ),
        ("ONLINE", "data_collector: {smapling_rate: 0.1}", "Did you mean sampling_rate?"),
        (
            "ONLINE",
            "data_collector: {collections: {model_inputs: {data: x}}}",
            "data_collector.collections.model_inputs knows nothing of 'data'",
        ),
        ("ACI", "containerResourceRequirements: {memoryInGb: 2}", "Did you mean memoryInGB?"),
        ("AKS", "autoScaler: {minReplica: 2}", "Did you mean minReplicas?"),
    ],
)
def test_a_key_within_a_section_that_nobody_knows_is_refused(
    legal: str, written: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "deploy.yaml").write_text(written)
    with pytest.raises(dbml.BadCommand) as refused:
        settings.read_config(tmp_path / "deploy.yaml", getattr(settings, legal), "it")
    assert said in str(refused.value)
    fine = "environment_variables: {ANY: 1}\ntags: {any: x}\ndata_collector: {collections: {any: true}}"
    (tmp_path / "deploy.yaml").write_text(fine)
    assert settings.read_config(tmp_path / "deploy.yaml", settings.ONLINE, "online")


def test_every_target_says_which_keys_it_takes(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"computeType": "aci", "containerResourceRequirements": {"cpu": 1, "memoryInGB": 1}}')
    assert settings.read_config(config, settings.ACI, "aci")["computeType"] == "aci"
    with pytest.raises(dbml.BadCommand, match="online knows nothing of 'computeType'"):
        settings.read_config(config, settings.MANAGED, "online")


# --- what travels


def signature(**inputs: str) -> dict[str, Any]:
    return {"inputs": json.dumps([{"name": n, "type": t} for n, t in inputs.items()])}


def sent(data: Any, signature_given: dict[str, Any]) -> Any:
    """Return what would be sent."""
    prepared = payload.prepare(data, signature_given, None)
    return json.loads(prepared.body(0, prepared.rows))["input_data"]


def test_columns_travel_as_their_types_say() -> None:
    when = pd.Timestamp("2026-01-02 03:04:05.678901")
    frame = pd.DataFrame(
        {
            "n": [1.0, 2.0],
            "f": [0.1, None],
            "b": [True, False],
            "s": ["ä", None],
            "t": [when, pd.NaT],
            "r": [b"\x00\xff", b""],
        }
    )
    signature_given = signature(n="long", f="double", b="boolean", s="string", t="datetime", r="binary")
    assert sent(frame, signature_given)["data"] == [
        [1, 0.1, True, "ä", when.isoformat(), "AP8="],
        [2, None, False, None, None, ""],
    ]
    for column, kind, value, said in (
        ("n", "long", 1.5, "n has fractions"),
        ("n", "long", None, "n has missing values"),
        ("n", "integer", 2**40, "n has 1099511627776"),
        ("b", "boolean", 1, "b is int64"),
        ("s", "string", 3, "s is int64"),
        ("n", "long", 2.0**53, "n has whole numbers that a double does not hold"),
        ("n", "long", float("inf"), "n has fractions"),
        ("t", "datetime", "soon", "t is text"),
        ("t", "datetime", when.tz_localize("Europe/Berlin"), "t has the time zone Europe/Berlin"),
        ("t", "datetime", "2026-01-02T03:04:05Z", "t has the time zone UTC"),
    ):
        with pytest.raises(dbml.BadData, match=said):
            sent(pd.DataFrame({column: [value]}), signature(**{column: kind}))
    optional = {
        "inputs": json.dumps(
            [{"name": "a", "type": "double"}, {"name": "b", "type": "long", "required": False}]
        )
    }
    assert sent([{"a": 1}], optional)["columns"] == ["a"]


def test_without_a_signature_values_travel_as_they_are_or_are_refused_by_row_and_column(
    tmp_path: Path,
) -> None:
    large = 2**53 + 1
    frame = pd.DataFrame(
        {
            "n": pd.array([large, None], dtype="Int64"),
            "d": [Decimal("1.10"), Decimal(2**62 + 1)],
            "s": ["007", None],
            "b": pd.Series([True, None], dtype=object),
        }
    )
    assert sent(frame, {})["data"] == [[large, 1.1, "007", True], [None, 2**62 + 1, None, None]]
    for value, said in (
        (b"x", "bytes are sent as base64"),
        (Decimal("1.12345678901234567890"), "more digits"),
    ):
        with pytest.raises(dbml.BadData, match=rf"row 1, column c: .*{said}"):
            sent(pd.DataFrame({"c": pd.Series(["x", value], dtype=object)}), {})
    written = {"columns": ["n", "x"], "data": [[large, 1], [None, 1.5]]}
    assert sent(written, {})["data"] == [[large, 1], [None, 1.5]]
    (tmp_path / "rows.csv").write_text(f"id,n,x,flag\n007,{large},{large},True\n010,,1.5,\n")
    read = payload.read(tmp_path / "rows.csv")
    assert sent(read, {})["data"] == [["007", large, str(large), True], ["010", None, "1.5", None]]
    read = payload.read(tmp_path / "rows.csv", signature(n="string"))
    assert isinstance(read, pd.DataFrame)
    assert read.n[0] == str(large)
    with pytest.raises(dbml.BadData, match=r"n has fractions, and the model wants long \(row 2\)"):
        sent(pd.DataFrame({"n": [1.0, 2.0, 2.5, 3.0]}), signature(n="long"))
    with pytest.raises(dbml.BadData, match="r has text that is not base64"):
        sent([{"r": "no base64!"}], signature(r="binary"))


def test_what_an_endpoint_reads_without_a_schema_keeps_its_values() -> None:
    large = 2**53 + 1
    assert exact.series([large, None]).tolist() == [large, pd.NA]
    assert exact.series([large, 1.5]).tolist() == [large, 1.5]
    assert exact.array([[1, "007"], [True, 2]]).tolist() == [[1, "007"], [True, 2]]
    assert exact.array([[large, 1.5]]).tolist() == [[large, 1.5]]
    assert exact.array([1, 2.5]).dtype == "float64"
    table = reading.tabular("dataframe_split", {"columns": ["a"], "data": [[1], [2]], "index": [5, 6]}, [])
    assert (table.names, table.columns, table.row(1)) == (["a"], [[1, 2]], 6)
    for form, data, said in (
        ("dataframe_split", {"columns": ["a", "a"], "data": [[1, 2]]}, "more than one column a"),
        ("inputs", {"a": [1], "b": [1, 2]}, "different numbers of values"),
        ("inputs", [[1, 2], [3]], "row 1 has 1"),
    ):
        with pytest.raises(reading.BadRequest, match=said):
            reading.tabular(form, data, ["a", "b"])
    for value, tensor in (([1.5], "int64"), ([2], "bool")):
        with pytest.raises(reading.BadRequest, match="the data has other values"):
            reading.refuse_other_numbers(value, np.array(value, dtype=tensor))


@pytest.mark.parametrize("dtype", ["int64", "Int64", object, "int64[pyarrow]"])
def test_large_whole_numbers_are_exact_in_every_kind_of_column(dtype: Any) -> None:
    large = [2**62 + 1, -(2**63)]
    frame = pd.DataFrame({"n": pd.Series(large, dtype=dtype)})
    assert sent(frame, signature(n="long"))["data"] == [[large[0]], [large[1]]]
    assert sent([{"n": Decimal(2**62 + 1)}], signature(n="long"))["data"] == [[2**62 + 1]]
    assert sent(frame, signature(n="double"))["data"] == [[float(each)] for each in large]


def test_arrays_travel_whole_and_are_checked() -> None:
    signature_given = {
        "inputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}])
    }
    assert sent(np.array([[1, 2], [3, 4]]), signature_given) == [[1.0, 2.0], [3.0, 4.0]]
    assert sent([0.5, 1.5], signature_given) == [[0.5, 1.5]], "one row"
    with pytest.raises(dbml.BadData, match="an array of n×2, and the data is 1×3"):
        sent([[1, 2, 3]], signature_given)
    with pytest.raises(dbml.BadData, match="float32, and the data is <U1"):
        sent([["a", "b"]], signature_given)
    named = {
        "inputs": json.dumps(
            [
                {"name": "a", "type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}},
                {"name": "b", "type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 1]}},
            ]
        )
    }
    assert sent({"a": [1, 2], "b": [[1], [2]]}, named) == {"a": [1, 2], "b": [[1.0], [2.0]]}
    with pytest.raises(dbml.BadData, match="lacks the arrays b"):
        sent({"a": [1]}, named)
    small = {"inputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "int8", "shape": [-1, 1]}}])}
    assert sent(np.array([[1.0], [-128.0]]), small) == [[1], [-128]]
    for value, said in ((300, "int8, and the data has 300"), (2.0**60, "that a double does not hold")):
        with pytest.raises(dbml.BadData, match=said):
            sent(np.array([[value]]), small)


def test_predictions_come_back_in_the_outputs_types() -> None:
    signature_given = {**signature(x="double"), "outputs": json.dumps([{"type": "integer"}])}
    prepared = payload.prepare(pd.DataFrame({"x": [1.0, 2.0]}, index=[7, 9]), signature_given, None)
    restored = prepared.restore([3, 4])
    assert isinstance(restored, pd.Series)
    assert str(restored.dtype) == "int32"
    assert list(restored.index) == [7, 9]
    signature_given["outputs"] = json.dumps([{"name": "p", "type": "float"}, {"name": "q", "type": "string"}])
    frame = payload.prepare(pd.DataFrame({"x": [1.0]}), signature_given, None).restore([{"p": 0.5, "q": "a"}])
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["p", "q"]
    assert str(frame["p"].dtype) == "float32"


def test_what_is_safe_is_tried_again_and_what_may_have_been_begun_is_not(
    served: Any, wine: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_PAUSE_S", 0.01)
    keys: list[bool] = []

    def headers(fresh: bool) -> dict[str, str]:
        keys.append(fresh)
        return {"Authorization": f"Bearer {key_of('wine') if fresh else 'an old one'}"}

    with Proxy(served.uri.removesuffix("/score")) as proxy:
        address = base.Address(f"{proxy.uri}/score", headers, signature(depth="double", rate="double"), 10**6)

        def asked() -> Any:
            return scoring.ask(served.endpoint, address, X, None, None, lambda _: None)

        proxy.status(503, times=2)
        proxy.status(429, retry_after=0.01, times=1)
        assert asked().predictions.iloc[0] == wine[0].predict(X)[0]
        assert [r.status for r in proxy.requests("score")] == [503, 503, 429, 401, 200]
        assert keys == [False, True], "a key that is refused is fetched again, once"
        for fault, said in ((proxy.drop, "connection broke"), (proxy.cut, "connection broke")):
            proxy.forget()
            with fault(times=1), pytest.raises(dbml.ScoringFailed, match=said):
                asked()
        proxy.clear()
        proxy.status(503)
        with pytest.raises(dbml.ScoringFailed, match="503"):
            asked()
        proxy.clear()
        proxy.status(403)
        with pytest.raises(dbml.NotPermitted, match="its key or token is not accepted"):
            asked()
        proxy.clear()
        proxy.status(413, times=1)
        halves = asked()
        assert halves.requests > 2, "what was too large goes in halves"
        assert halves.predictions.tolist() == wine[0].predict(X).tolist()
        proxy.refuse()
        with pytest.raises(dbml.ScoringFailed, match="nothing answers at"):
            asked()


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes")
def test_a_scoring_server_imports_what_it_needs_alone(served: Any) -> None:
    began = time.monotonic()
    assert dbml.endpoints("wine").state == "ready"  # type: ignore[union-attr]
    assert time.monotonic() - began < 30
    server = pids("wine")[0]
    assert processes.memory_bytes(server) < 120_000_000, "neither MLflow nor pandas is in the server itself"
