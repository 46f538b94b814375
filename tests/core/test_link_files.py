"""A file that names workspaces: whose it is, and where it may send a user's credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import known_places, link_files, session
from dbml_magics.errors import BadLink, NotConfirmed
from tests.conftest import Proxies
from tests.core.linking import link

TEAM = """
[link]
track = "both"
{spill}
[databricks]
uri = "{databricks}"
[azureml]
uri = "{azureml}"
"""


def team_file(proxies: Proxies, spill: Path | None = None) -> Path:
    """Write a team's file that names the two servers."""
    file = Path.cwd() / "dbml.toml"
    file.write_text(
        TEAM.format(
            databricks=proxies.databricks.uri,
            azureml=proxies.azureml.uri,
            spill=f'spill = "{spill}"' if spill is not None else "",
        )
    )
    file.chmod(0o600)
    return file


def host(proxy: Any) -> str:
    return str(proxy.uri).partition("//")[2]


def refused(error: type[Exception], **wishes: Any) -> str:
    with pytest.raises(error) as raised:
        dbml.link(**wishes)
    return "\n".join(raised.value.lines())  # type: ignore[attr-defined]


def test_a_host_that_a_file_names_for_the_first_time_gets_nothing_without_the_users_word(
    home: Path, proxies: Proxies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "a-token-of-the-users")
    spill = tmp_path / "spilled"
    file = team_file(proxies, spill)
    places = f"{host(proxies.databricks)},{host(proxies.azureml)},{spill}"
    for confirm in (None, "", "yes", host(proxies.databricks), places.replace("127", "128"), f"{places}x"):
        said = refused(NotConfirmed, config="dbml.toml", confirm=confirm)
        for place in places.split(","):
            assert place in said
    assert f'dbml.link(config="{file}", confirm="{places}")' in said.replace("%dbml link --config", "") or (
        f"%dbml link --config {file} --confirm {places}" in said
    )
    assert not spill.exists(), "the folder was made before anybody agreed"
    assert [proxy.count() for proxy in proxies] == [0, 0], "a server was asked before anybody agreed"
    status = dbml.link(config="dbml.toml", confirm=places)
    assert [each.uri for each in status.destinations] == [proxy.uri for proxy in proxies]
    assert spill.is_dir()
    dbml.unlink()
    dbml.link(config=True)
    dbml.unlink()
    kept = home / "places.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert set(json.loads(kept.read_text())) == {
        f"databricks {host(proxies.databricks)}",
        f"azureml {host(proxies.azureml)}",
        f"spill {spill}",
    }


def test_a_host_that_the_users_own_line_named_is_known_for_its_role_alone(
    home: Path, proxies: Proxies
) -> None:
    team_file(proxies)
    link(proxies)
    dbml.unlink()
    dbml.link(config="dbml.toml")
    dbml.unlink()
    Path("dbml.toml").write_text(
        TEAM.format(databricks=proxies.azureml.uri, azureml=proxies.databricks.uri, spill="")
    )
    said = refused(NotConfirmed, config="dbml.toml")  # each would be shown the other's token
    assert f"the databricks workspace: {host(proxies.azureml)}" in said
    assert f"the azureml workspace: {host(proxies.databricks)}" in said


def test_what_stands_on_the_line_is_the_users_word(home: Path, proxies: Proxies) -> None:
    team_file(proxies)
    said = refused(NotConfirmed, config="dbml.toml", azureml=proxies.azureml.uri)
    assert "the azureml workspace" not in said
    dbml.link(config="dbml.toml", databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    dbml.unlink()


def test_a_line_in_a_notebook_names_the_host_and_takes_the_word(home: Path, proxies: Proxies) -> None:
    from dbml_magics.commands import COMMANDS
    from dbml_magics.commands.parser import parse, split
    from dbml_magics.commands.running import run
    from dbml_magics.notebook.display import Screen

    team_file(proxies)
    command = COMMANDS["link"]
    with pytest.raises(NotConfirmed) as raised:
        run(command, parse(command, split("--config dbml.toml", command.prog), {}), Screen())
    line = raised.value.remedies[0][0]
    assert line.startswith("%dbml link --config ")
    run(command, parse(command, split(line.removeprefix("%dbml link "), command.prog), {}), Screen())
    assert session.current().linked


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("databricks", None),
        ("databricks://PROFILE", None),
        ("https://host", "host"),
        ("https://host:443/x", "host"),
        ("https://host:8443", "host:8443"),
        ("http://host", "host:80"),  # not the host that is known with TLS
        ("http://HOST:5000", "host:5000"),
        ("http://[::1]:5000", "::1:5000"),
        ("azureml://eastus.api.azureml.ms/mlflow/v1.0/subscriptions/s", "eastus.api.azureml.ms"),
        ("postgresql://db.example/mlflow", "db.example"),
        ("sqlite:////data/other.db", "/data/other.db"),
        ("file:///home/me", "/home/me"),
        ("file:/home/me", "/home/me"),
    ],
)
def test_the_place_of_a_uri(uri: str, place: str | None) -> None:
    assert known_places.place_of(uri) == place


def test_a_database_of_a_files_choosing_is_named_too(home: Path, tmp_path: Path) -> None:
    """It may be another program's, or a planted one whose runs name the user's files."""
    Path("dbml.toml").write_text(
        f'[link]\ntrack = "databricks"\n[databricks]\nuri = "sqlite:///{tmp_path}/planted.db"'
    )
    Path("dbml.toml").chmod(0o600)
    assert f"{tmp_path}/planted.db" in refused(NotConfirmed, config="dbml.toml")
    assert not (tmp_path / "planted.db").exists()


# --- whose file it is


def of_another(path: Path) -> None:
    os.chown(path, 12345, 12345)


def of_anybody(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def of_a_group(path: Path) -> None:
    os.chown(path, -1, 12345)
    path.chmod(path.stat().st_mode | 0o020)


@pytest.mark.parametrize("name", ["dbml.toml", "config.json"])
@pytest.mark.parametrize("change", [of_another, of_anybody, of_a_group])
@pytest.mark.parametrize("where", ["file", "folder", "folder above", "link", "folder of the link"])
def test_a_file_that_somebody_else_can_write_is_refused_with_words(
    home: Path, proxies: Proxies, tmp_path: Path, name: str, change: Callable[[Path], None], where: str
) -> None:
    if os.getuid() != 0 and change is not of_anybody:
        pytest.skip("only root gives files away")
    folder = tmp_path / "shared" / "team"
    folder.mkdir(parents=True)
    file = folder / name
    if name == "dbml.toml":
        file.write_text(f'[link]\ntrack = "azureml"\n[azureml]\nuri = "{proxies.azureml.uri}"')
    else:
        file.write_text('{"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}')
    file.chmod(0o600)
    link_files.read(str(file), str(tmp_path))
    asked = file
    if where == "file":
        change(file)
    elif where == "folder":
        change(folder)
    elif where == "folder above":
        change(folder.parent)
    else:
        asked = Path.cwd() / name
        asked.symlink_to(file)
        link_files.read(str(asked), str(tmp_path))
        if where == "link" and change is of_another:
            os.chown(asked, 12345, 12345, follow_symlinks=False)
        else:
            change(file if where == "link" else folder)
    for given in (str(asked), True if where != "folder above" else str(asked)):
        os.chdir(asked.parent)
        said = refused(BadLink, config=given)
        assert f"--config: {asked} is not taken" in said
        assert "try  " in said
    assert proxies.azureml.count() == 0


def test_a_file_in_a_folder_where_anybody_makes_files_of_their_own_is_the_users(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "dbml.toml").write_text('[databricks]\nuri = "databricks"')
    (folder / "dbml.toml").chmod(0o644)
    assert link_files.read("dbml.toml", str(folder)).databricks == {"uri": "databricks"}


def test_a_section_that_is_given_as_a_value_is_told_without_the_value(home: Path) -> None:
    file = Path.cwd() / "dbml.toml"
    file.write_text('databricks = "dapi0123456789abcdef"\n')
    file.chmod(0o600)
    with pytest.raises(BadLink, match="databricks is a section, not a value") as refused:
        link_files.read(str(file), str(Path.cwd()))
    assert "dapi0123456789abcdef" not in "\n".join(refused.value._render_traceback_())
