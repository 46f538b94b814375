"""The writers of a workspace, each made without an engine, on destinations in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow.entities import LoggedModelStatus, ViewType
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.delivery.writers.attached import attached
from dbml_magics.core.delivery.writers.emulated_models import MODELS_TAG, EmulatedModels
from dbml_magics.core.delivery.writers.ids import MODEL_TAG, RUN_TAG, Ids
from dbml_magics.core.delivery.writers.learned import Learned
from dbml_magics.core.delivery.writers.overflow_files import ARTIFACT
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable
from dbml_magics.core.destinations.limits import MLFLOW
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG
from dbml_magics.core.destinations.protocol import Capabilities
from dbml_magics.core.model.facts import ModelFacts, VersionFacts
from dbml_magics.core.model.operations import (
    ChangeExperiment,
    ChangeRegistry,
    CopyFiles,
    CreateExperiment,
    CreateRun,
    DeleteTag,
    LogMetric,
    RegisterVersion,
    SetModelTags,
    Unknown,
    UpdateRun,
)
from dbml_magics.core.outbox.lines import line_of
from tests.infra.memory_destination import HALF, LOST, UNSENT, Fault, MemoryDestination
from tests.infra.sides import ROLES, Sides

RUN = "900000123"
CREATION = CreateRun("0", "me", 1000, {"mlflow.runName": "first", "t": "1"})
POINTS = [("m", float(n), 1000 + n, n) for n in range(6)]
NO_CALL = Fault(lambda: MissingEndpoint("there is no such call"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Sides]]:
    made: list[Sides] = []

    def make(**given: MemoryDestination) -> Sides:
        there = {role: given.get(role) or MemoryDestination(role, appends=True) for role in ROLES}
        made.append(Sides(tmp_path, there))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def sides(make: Callable[..., Sides]) -> Sides:
    return make()


@pytest.fixture
def mirror(sides: Sides) -> Side:
    """Return the mirror's side, with the run begun in the journal."""
    sides.queues.creations[RUN] = CREATION
    return sides.of["azureml"]


def runs_of(there: MemoryDestination) -> list[str]:
    return [run.info.run_id for run in there.search_runs(["0"], "", ViewType.ALL)]


def history(side: Side, key: str = "m") -> list[float]:
    return [m.value for m in side.reader.history(side.ids.run_at(RUN), key)]


# --- ids


def test_ids_alone_make_nothing(sides: Sides) -> None:
    role, there = "azureml", sides.there["azureml"]
    learned = Learned(role, there, sides.state.capabilities)
    ids = Ids(
        role,
        sides.of[role].ids.topology,
        there,
        sides.state,
        EmulatedModels(role, there, sides.state, learned),
    )
    with pytest.raises(MlflowException, match="Run 'r' not found"):
        ids.run_at("r")
    with pytest.raises(MlflowException, match="'m-1' not found"):
        ids.model_at("m-1")
    assert "create_run" not in there.calls


def test_the_primary_knows_a_run_by_the_users_id_and_the_mirror_by_none(sides: Sides) -> None:
    assert sides.of["databricks"].ids.known_run("r") == "r"
    with pytest.raises(MlflowException, match="not found"):
        sides.of["azureml"].ids.known_run("r")


def test_a_run_is_named_by_its_tag_and_none_where_it_is_gone(mirror: Side) -> None:
    own = mirror.ids.run_at(RUN)
    mirror.ids.state.forget_identity("azureml", "run", RUN)
    assert mirror.ids.visible_run(own) == RUN
    assert mirror.ids.visible_run("f" * 32) is None


def test_a_parents_id_is_the_workspaces_own(mirror: Side) -> None:
    own = mirror.ids.run_at(RUN)
    assert mirror.ids.own_tags({"mlflow.parentRunId": RUN, "t": RUN}) == {"mlflow.parentRunId": own, "t": RUN}


def test_where_a_runs_files_are_is_asked_of_the_workspace(mirror: Side) -> None:
    own = mirror.ids.run_at(RUN)
    mirror.ids.state.set_identity("azureml", "run", RUN, own)  # as another machine's state says it
    assert mirror.ids.run_identity(RUN).extra["artifacts"].startswith("memory:/azureml/")


def test_files_of_a_run_that_was_made_anew_are_where_it_is_now(sides: Sides, mirror: Side) -> None:
    mirror.ids.run_at(RUN)
    before = mirror.reader.repository(f"run:{RUN}")
    assert mirror.reader.repository(f"run:{RUN}") is before
    again = sides.there["azureml"].create_run("0", "me", 1, {RUN_TAG: RUN}, "again")
    mirror.ids.remember_run(RUN, again)
    assert mirror.reader.repository(f"run:{RUN}").artifact_uri == again.info.artifact_uri


# --- runs


@pytest.mark.parametrize("fault", [LOST, UNSENT])
def test_a_run_is_made_once_whether_its_answer_is_lost(sides: Sides, fault: Fault) -> None:
    there, mirror = sides.there["azureml"], sides.of["azureml"]
    there.fail(fault, of="create_run")
    with pytest.raises(Unavailable):
        mirror.runs.create(RUN, CREATION, False)
    sides.start_again()
    sides.of["azureml"].runs.create(RUN, CREATION, False)
    (run,) = there.search_runs(["0"], "")
    assert run.data.tags == {"mlflow.runName": "first", "t": "1", RUN_TAG: RUN}


def test_a_creation_in_doubt_waits_for_what_an_earlier_process_sent(sides: Sides) -> None:
    mirror, turns = sides.of["azureml"], sides.turns["azureml"]
    sides.state.creations.begin("azureml", RUN)
    turns.unsettled = Unavailable("waits", sent=False)
    with pytest.raises(Unavailable, match="waits"):
        mirror.runs.create(RUN, CREATION, False)
    assert runs_of(sides.there["azureml"]) == []


def test_a_run_of_a_deleted_experiment_restores_it(sides: Sides, mirror: Side) -> None:
    there = sides.there["azureml"]
    own = mirror.experiments.make("wine", {})
    sides.state.set_identity("azureml", "experiment", "7", own, name="wine")
    there.delete_experiment(own)
    mirror.runs.create(RUN, replace(CREATION, experiment="7"), False)
    assert there.get_experiment(own).lifecycle_stage == "active"


def test_a_creation_in_doubt_is_done_where_the_run_was_made_and_deleted(sides: Sides) -> None:
    """A folder whose state was lost replays it; the run, named by the primary, never had our tag."""
    there, side = sides.there["databricks"], sides.of["databricks"]
    own = there.create_run("0", "me", 1000, {"t": "1"}, "first").info.run_id
    there.delete_run(own)
    side.runs.create(own, CREATION, True)
    assert runs_of(there) == [own]
    assert side.ids.run_at(own) == own
    assert not list(sides.state.dead(None))


def test_a_run_is_made_without_the_tag_that_is_refused(sides: Sides) -> None:
    mirror, there = sides.of["azureml"], sides.there["azureml"]
    there.fail(lambda: MlflowException.invalid_parameter_value("no such tag"), of="create_run")
    mirror.runs.create(RUN, replace(CREATION, tags={"mlflow.runName": "first", "../k": "1"}), False)
    run = there.get_run(mirror.ids.run_at(RUN))
    assert run.data.tags == {"mlflow.runName": "first", RUN_TAG: RUN}
    assert len(sides.state.dead("azureml", RUN)) == 1


def test_a_run_that_was_given_up_is_not_made(mirror: Side) -> None:
    mirror.runs.give_up(RUN, "it is too odd")
    with pytest.raises(MlflowException, match="could not be made here: it is too odd"):
        mirror.ids.run_at(RUN)


def test_a_run_ends_and_loses_a_tag_that_may_be_gone(sides: Sides, mirror: Side) -> None:
    for op in (UpdateRun("FINISHED", 2000), DeleteTag("t"), DeleteTag("t")):
        mirror.apply(RUN, op, True)
    run = sides.there["azureml"].get_run(mirror.ids.run_at(RUN))
    assert (run.info.status, "t" in run.data.tags) == ("FINISHED", False)


def test_a_write_of_an_unknown_kind_is_refused_and_one_of_batches_too(mirror: Side) -> None:
    for op in (Unknown("?", []), LogMetric("m", 1.0, 1, 1)):
        with pytest.raises(MlflowException, match="unknown kind"):
            mirror.apply(RUN, op, False)


# --- batches


@pytest.mark.parametrize("fault", [LOST, HALF, UNSENT])
def test_a_batch_in_doubt_arrives_once(sides: Sides, mirror: Side, fault: Fault) -> None:
    sides.there["azureml"].fail(fault, of="log_batch")
    with pytest.raises(Unavailable) as failure:
        mirror.batches.send(RUN, Batch([*POINTS], {"p": "1"}, {"u": "2"}), False)
    assert failure.value.sent == (fault is not UNSENT)
    assert mirror.batches.send(RUN, Batch([*POINTS], {"p": "1"}, {"u": "2"}), True) == []
    assert history(mirror) == [0, 1, 2, 3, 4, 5]
    assert sides.there["azureml"].get_run(mirror.ids.run_at(RUN)).data.params == {"p": "1"}


def test_a_refused_item_is_found_and_the_others_arrive(mirror: Side) -> None:
    mirror.batches.send(RUN, Batch(params={"p": "1"}), False)
    refused = mirror.batches.send(RUN, Batch([*POINTS], {"p": "2", "q": "3"}, {"u": "4"}), False)
    assert [(op.key, "not allowed" in cause) for op, cause in refused] == [("p", True)]
    assert history(mirror) == [0, 1, 2, 3, 4, 5]
    assert mirror.reader.run(RUN).data.params == {"p": "1", "q": "3"}


def test_a_limit_that_a_refusal_names_is_lowered_in_one_place(
    make: Callable[..., Sides],
) -> None:
    sides = make(azureml=MemoryDestination("azureml", limits=replace(MLFLOW, metrics=5000, items=5000)))
    sides.queues.creations[RUN] = CREATION
    mirror = sides.of["azureml"]
    many = [("m", float(n), n, n) for n in range(1500)]
    assert mirror.batches.send(RUN, Batch(many), False) == []
    assert len(history(mirror)) == 1500
    assert mirror.learned.limits.metrics <= 1000 < sides.there["azureml"].limits.metrics


def test_a_batch_is_not_sent_where_runs_are_not_tracked(tmp_path: Path) -> None:
    there = {role: MemoryDestination(role) for role in ROLES}
    sides = Sides(tmp_path, there, tracked=("databricks",))
    assert sides.of["azureml"].batches.send(RUN, Batch([*POINTS]), False) == []
    sides.of["azureml"].apply(RUN, CREATION, False)
    assert there["azureml"].calls == []
    sides.close()


def test_what_fails_alone_while_others_go_through_is_returned(sides: Sides, mirror: Side) -> None:
    mirror.ids.run_at(RUN)
    there, real = sides.there["azureml"], sides.there["azureml"].log_batch

    def log_batch(run_id: str, points: list[object], params: dict[str, str], tags: dict[str, str]) -> None:
        if "poison" in params:
            raise Unavailable("answers 500")
        real(run_id, points, params, tags)  # type: ignore[arg-type]

    there.log_batch = log_batch  # type: ignore[assignment,method-assign]
    refused = mirror.batches.send(RUN, Batch([*POINTS], {"poison": "1", "p": "2"}), True, in_pieces=True)
    assert [(op.key, cause) for op, cause in refused] == [
        ("poison", "answers 500, time and again, while other writes went through")
    ]
    assert mirror.reader.run(RUN).data.params == {"p": "2"}


def test_what_was_acknowledged_and_dropped_is_named(sides: Sides, mirror: Side) -> None:
    mirror.batches.send(RUN, Batch([*POINTS], {"p": "1"}), False)
    assert not mirror.batches.missing_at_end(RUN)
    sides.there["azureml"].log_batch = lambda *_: None  # type: ignore[method-assign]
    mirror.batches.send(RUN, Batch(params={"q": "1"}), False)
    assert str(mirror.batches.missing_at_end(RUN)) == "param q"


def test_what_does_not_fit_is_in_the_runs_file(make: Callable[..., Sides]) -> None:
    sides = make(azureml=MemoryDestination("azureml", limits=replace(MLFLOW, metric_names=2, run_tags=50)))
    sides.queues.creations[RUN] = CREATION
    mirror = sides.of["azureml"]
    points = [(key, 1.0, 1, 1) for key in "abc"]
    assert mirror.batches.send(RUN, Batch(points), False) == []
    assert mirror.overflow.files.unwritten() == {RUN}
    mirror.overflow.write_due(lambda _: False, at_once=True)
    (content,) = (c for place, c in sides.there["azureml"].files.items() if place.endswith(ARTIFACT))
    assert b'"c": [' in content
    assert mirror.overflow.files.unwritten() == set()


# --- experiments


def test_an_experiment_is_asked_of_the_primary_and_made_here(sides: Sides) -> None:
    at = sides.there["databricks"].create_experiment("wine", {"team": "a"})
    own = sides.of["azureml"].experiments.at(at)
    found = sides.there["azureml"].get_experiment(own)
    assert (found.name, found.tags["team"]) == ("wine", "a")


def test_a_primary_that_is_away_is_no_trouble_of_the_mirrors(sides: Sides) -> None:
    at = sides.there["databricks"].create_experiment("wine", {})
    sides.health["databricks"].trouble(Unavailable("not reachable", denied=True))
    with pytest.raises(Unavailable, match="waits for databricks: not reachable") as failure:
        sides.of["azureml"].experiments.at(at)
    assert failure.value.elsewhere


def test_a_workspace_that_names_experiments_itself_says_whose_each_is(make: Callable[..., Sides]) -> None:
    own_names = Capabilities(answers_by_rest=True, names_experiments_itself=True)
    sides = make(azureml=MemoryDestination("azureml", capabilities=own_names))
    there, mirror = sides.there["azureml"], sides.of["azureml"]
    there.create_experiment("wine", {EXPERIMENT_TAG: "/Users/she/wine"})
    mirror.apply("q", CreateExperiment("900000000000000007", "wine", {}), False)
    theirs, ours = there.search_experiments(ViewType.ACTIVE_ONLY)[::-1][-2:]
    assert {theirs.tags[EXPERIMENT_TAG], ours.tags[EXPERIMENT_TAG]} == {"/Users/she/wine", "wine"}


def test_changes_of_an_experiment_made_twice_are_made_once(sides: Sides) -> None:
    mirror, there = sides.of["azureml"], sides.there["azureml"]
    sides.state.experiments.remember("7", "wine", {})
    for op in (
        ChangeExperiment("tag", "7", key="k", value="v"),
        ChangeExperiment("untag", "7", key="k"),
        ChangeExperiment("untag", "7", key="k"),
        ChangeExperiment("rename", "7", name="red"),
        ChangeExperiment("delete", "7"),
        ChangeExperiment("delete", "7"),
    ):
        mirror.apply("link", op, True)
    found = there.get_experiment(mirror.experiments.at("7"))
    assert (found.name, found.lifecycle_stage, "k" in found.tags) == ("red", "deleted", False)


# --- files


def test_an_mlmodel_gets_the_workspaces_own_ids(sides: Sides, mirror: Side, tmp_path: Path) -> None:
    own = mirror.ids.run_at(RUN)
    file = tmp_path / "MLmodel"
    file.write_text(yaml.safe_dump({"flavors": {"x": {}}, "run_id": RUN, "artifact_path": "dbml:/a"}))
    mirror.files.upload(f"run:{RUN}", "model/MLmodel", file)
    (content,) = sides.there["azureml"].files.values()
    assert yaml.safe_load(content) == {"flavors": {"x": {}}, "run_id": own, "artifact_path": "model"}
    assert mirror.files.has(f"run:{RUN}", "model/MLmodel")


# --- models

MODEL: ModelFacts = {
    "id": "m-1",
    "experiment": "0",
    "name": "net",
    "run": RUN,
    "type": None,
    "params": {"a": "1"},
    "tags": {"t": "1"},
    "created": 1,
}


@pytest.mark.parametrize("fault", [LOST, UNSENT])
def test_a_logged_model_is_made_once_whether_its_answer_is_lost(
    sides: Sides, mirror: Side, fault: Fault
) -> None:
    there = sides.there["azureml"]
    there.fail(fault, of="create_logged_model")
    with pytest.raises(Unavailable):
        mirror.models.create(MODEL, False)
    sides.start_again()
    again = sides.of["azureml"]
    again.models.create(MODEL, False)
    again.models.finalize("m-1", "READY")
    (model,) = there.search_logged_models(["0"])
    assert (model.tags[MODEL_TAG], model.status) == ("m-1", LoggedModelStatus.READY)
    assert again.ids.visible_model(model.model_id) == "m-1"


def test_a_model_that_only_the_primary_knows_is_asked_of_it(sides: Sides, mirror: Side) -> None:
    named = sides.there["databricks"].create_logged_model("0", "net", None, {"t": "2"}, {}, None)
    own = mirror.ids.model_at(named.model_id).actual
    assert sides.there["azureml"].get_logged_model(own).tags["t"] == "2"


def test_a_service_without_logged_models_has_them_kept(sides: Sides, mirror: Side) -> None:
    there = sides.there["azureml"]
    there.fail(NO_CALL, of="create_logged_model")
    mirror.models.create(MODEL, False)
    mirror.models.change(SetModelTags("m-1", {"t": "2"}), False)
    assert not mirror.learned.has_logged_models
    assert mirror.reader.run(RUN).data.tags[MODELS_TAG] == "m-1=net"
    sides.state.emulated_models.note("azureml", "m-1", {**mirror.emulated.facts("m-1")})
    assert mirror.emulated.facts("m-1")["tags"] == {"t": "2"}
    assert [facts["id"] for facts in mirror.emulated.of_runs(["0"])] == ["m-1"]
    mirror.learned.reset_capabilities()
    assert mirror.learned.has_logged_models
    assert mirror.emulated.keeps("m-1")


def test_outputs_are_in_a_tag_where_there_is_no_call_for_them(sides: Sides, mirror: Side) -> None:
    mirror.models.create(MODEL, False)
    sides.there["azureml"].fail(NO_CALL, of="log_outputs")
    mirror.lineage.outputs(RUN, {"m-1": 3}, False)
    assert mirror.learned.lacks("outputs")
    assert mirror.ids.model_at("m-1").actual in mirror.reader.run(RUN).data.tags[MODELS_TAG]


# --- adoption


def older_run(sides: Sides) -> str:
    """Make a run at the primary as it was before the link."""
    there = sides.there["databricks"]
    made = there.create_run("0", "she", 500, {"t": "1"}, "older").info.run_id
    there.log_batch(made, POINTS, {"p": "1"}, {})
    there.update_run_info(made, 3, 900, None)
    there.files[f"{there.get_run(made).info.artifact_uri}/notes.txt"] = b"notes"
    model = there.create_logged_model("0", "net", made, {}, {}, None)
    there.log_outputs(made, {model.model_id: 2})
    return str(made)


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("fault", [LOST, UNSENT])
def test_an_older_run_is_adopted_whole_and_once(sides: Sides, fault: Fault, number: int) -> None:
    run, there = older_run(sides), sides.there["azureml"]
    there.fail(fault, number)
    for _ in range(2):
        mirror = sides.of["azureml"]
        try:
            own = mirror.ids.run_at(run)
            mirror.apply(run, CopyFiles("azureml"), False)
            break
        except Unavailable:
            sides.start_again()
    assert (run, CopyFiles("azureml")) in sides.queues.written
    (found,) = there.search_runs(["0"], "")
    assert (found.info.run_id, found.info.status, found.data.params) == (own, "FINISHED", {"p": "1"})
    assert len(there.get_metric_history(own, "m")) == len(POINTS)
    assert [place.rpartition("/")[2] for place in there.files] == ["notes.txt"]
    assert list(attached(there.get_run(own), mirror.ids.visible_model).outputs.values()) == [2]
    assert mirror.adoption.settle_doubt(run)
    assert not mirror.adoption.settle_doubt(run)


def test_a_live_run_is_left_for_a_while_to_the_process_that_began_it(sides: Sides) -> None:
    there = sides.there["databricks"]
    made = there.create_run("0", "she", 500, {}, "live").info.run_id
    there.log_batch(made, [], {}, {RUN_TAG: made})
    with pytest.raises(Unavailable, match="has yet to make it there"):
        sides.of["azureml"].ids.run_at(made)
    sides.clock.sleep(61)
    assert sides.of["azureml"].ids.run_at(made)


# --- registrations

VERSION: VersionFacts = {
    "key": "k1",
    "name": "wine",
    "tags": {},
    "run": RUN,
    "source": {"kind": "uri", "uri": "s3://bucket/model"},
    "to": [*ROLES],
}


@pytest.mark.parametrize("fault", [LOST, UNSENT])
def test_a_version_is_registered_once_and_the_two_name_each_other(sides: Sides, fault: Fault) -> None:
    sides.queues.creations[RUN] = CREATION
    there = sides.there["azureml"]
    there.fail(fault, of="create_model_version")
    for role in ROLES:
        side = sides.of[role]
        try:
            side.apply(RUN, RegisterVersion(VERSION), False)
        except Unavailable:
            side.apply(RUN, RegisterVersion(VERSION), False)
    (version,) = there.search_model_versions("name='wine'")
    assert version.tags["dbml_twin"] == "databricks:wine/1"
    (twin,) = (op for queue, op in sides.queues.written if queue == "link")
    sides.of["databricks"].apply("link", twin, False)
    assert sides.there["databricks"].get_model_version("wine", "1").tags["dbml_twin"] == "azureml:wine/1"
    assert sides.of["azureml"].versions.own_version("wine", "1", None) == "1"


def test_a_registration_whose_line_was_never_written_holds_up_later_ones_for_a_minute(sides: Sides) -> None:
    op, mirror = RegisterVersion({**VERSION, "after": {"k0": "r0"}}), sides.of["azureml"].registrations
    lost: VersionFacts = {**VERSION, "key": "k0"}
    sides.state.model_versions.ask("r0", lost, sides.clock.time())
    assert [by.on for by in mirror.before(RUN, op)] == ["registration-k0"]
    sides.clock.sleep(61)
    sides.state.reject("azureml", "r0", RegisterVersion(lost).encode(), "it cannot be read")
    assert [by.on for by in mirror.before(RUN, op)] == ["registration-k0"], "it may be tried again"
    sides.state.settle_dead(sides.state.last_dead(), [])
    assert list(mirror.before(RUN, op)) == []
    assert sides.state.model_versions.open_of("wine") == {}


def test_a_registration_waits_for_none_that_the_queue_it_was_asked_in_has_no_line_of(sides: Sides) -> None:
    """The other one's process was killed before its line; the queue waits for this very registration."""
    op = RegisterVersion({**VERSION, "run": None, "after": {"k0": "registry"}})
    mirror = sides.of["azureml"].registrations
    sides.state.model_versions.ask("registry", {**VERSION, "key": "k0"}, sides.clock.time())
    sides.queues.waiting.add(("azureml", "registry"))
    assert [by.on for by in mirror.before("registry", op) if by.needed] == ["registry"]
    sides.clock.sleep(61)
    assert [by for by in mirror.before("registry", op) if by.needed] == []
    assert sides.state.model_versions.open_of("wine") == {}

    sides.state.model_versions.ask("registry", {**VERSION, "key": "k1"}, sides.clock.time())
    sides.journal.append("registry", line_of(RegisterVersion({**VERSION, "key": "k1"}).encode(1)))
    sides.clock.sleep(61)
    later = RegisterVersion({**VERSION, "after": {"k1": "registry"}})
    for _ in range(2):
        waits = [by.on for by in mirror.before(RUN, later) if by.needed]
        assert waits == ["registry"], "expected it to wait for a line that is there"


def test_a_version_comes_after_earlier_registry_writes_and_registrations_of_its_model(sides: Sides) -> None:
    op = RegisterVersion({**VERSION, "after": {"k0": "r0", "k9": "r9"}})
    mirror = sides.of["azureml"].registrations
    assert list(mirror.before(RUN, op)) == [], "nothing of them is known"
    sides.state.model_versions.ask("r0", {**VERSION, "key": "k0"}, sides.clock.time())
    assert [(by.on, by.needed) for by in mirror.before(RUN, op)] == [("registration-k0", True)]
    sides.queues.waiting.update([("azureml", "registry"), ("azureml", "r0"), ("databricks", "r9")])
    assert [(by.on, by.needed) for by in mirror.before(RUN, op)] == [("registry", False), ("r0", True)]
    sides.queues.waiting.add(("azureml", "registration-k0"))
    expected = [("registry", False), ("r0", False), ("registration-k0", True)]
    assert [(by.on, by.needed) for by in mirror.before(RUN, op)] == expected
    change = ChangeRegistry({"do": "alias", "name": "wine", "to": [*ROLES], "after": {"k0": "r0"}})
    assert [by.on for by in mirror.before("registry", change)] == ["r0", "registration-k0"]
    sides.state.model_versions.note_refusal("k0", "azureml", "no")
    assert [by.on for by in mirror.before(RUN, op)] == ["registry"]
    elsewhere = RegisterVersion({**VERSION, "to": ["databricks"]})
    assert list(mirror.before(RUN, elsewhere)) == []
