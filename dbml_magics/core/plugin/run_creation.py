"""The creation of a run: the primary names it, or it has a provisional id until the primary can.

The primary's run carries a key of the call in a tag. By that key a creation whose answer was lost is found,
so that no second run is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from dbml_magics.common.config import identity_budget_seconds
from dbml_magics.core.delivery.writers.ids import RUN_ID_TAGS, RUN_TAG
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.destinations.limits import names_a_limit
from dbml_magics.core.mlflow_private import random_name
from dbml_magics.core.model.operations import CreateRun, SetTagAt
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.plugin.asked import is_run_on_its_way, store_of
from dbml_magics.core.runtime.engine import Engine


@dataclass(frozen=True)
class NewRun:
    """What a run is created with, under the ids that the user knows."""

    experiment_id: str
    user_id: str
    start_time: int
    tags: dict[str, str]
    name: str | None
    key: str
    """The tag's value by which the primary's run is found, and the run's id while that is provisional."""


def begin_run(engine: Engine, new: NewRun) -> Run:
    """Have the primary name a run, or name it provisionally; journal its creation."""
    primary, tried = engine.link.primary, list[bool]()
    late: dict[str, str] = {}
    try:
        made = _made_at_primary(engine, new, tried)
    except Unavailable:
        run_id = new.key
        if tried:  # it may have been made there, its answer lost: look before another one is made
            engine.state.creations.begin(primary, run_id)
        name = new.name or new.tags.get(MLFLOW_RUN_NAME) or random_name()
        tags = {**new.tags, MLFLOW_RUN_NAME: name}
    else:
        run_id = made.info.run_id
        name = made.info.run_name or made.data.tags.get(MLFLOW_RUN_NAME, "")
        tags = {**new.tags, MLFLOW_RUN_NAME: name}
        engine.primary.ids.remember_run(run_id, made)
        engine.primary.overflow.begin(run_id, made.data.tags)
        _, over = engine.primary.overflow.split_tags(tags)
        # What it was not made with, or not whole.
        late = {k: v for k, v in tags.items() if k not in made.data.tags or k in over}
    _journal(engine, replace(new, tags=tags), run_id, late)
    return engine.runs.get_run(run_id)


def _journal(engine: Engine, new: NewRun, run_id: str, late: dict[str, str]) -> None:
    """Journal a run's creation for all workspaces, and for the primary the tags that its run lacks."""
    provisional = run_id == new.key
    engine.live.begin_queue(run_id)
    own = {} if provisional else {RUN_TAG: run_id, **late}
    creation = CreateRun(new.experiment_id, new.user_id, new.start_time, new.tags)
    tags = [SetTagAt([engine.link.primary], tag, value) for tag, value in own.items()]
    engine.recorder.write_all(run_id, [creation, *tags], lasting=True)
    engine.state.remember_run(
        run_id,
        {
            "experiment": new.experiment_id,
            "user": new.user_id,
            "start": new.start_time,
            "name": new.tags[MLFLOW_RUN_NAME],
            "parent": new.tags.get(MLFLOW_PARENT_RUN_ID),
            "provisional": provisional,
            "ended": False,
        },
    )
    engine.own_runs.begun.append(run_id)


def _made_at_primary(engine: Engine, new: NewRun, tried: list[bool]) -> Run:
    """Return the run that the primary made. Raises Unavailable where it cannot be asked now."""
    role = engine.link.primary
    behind = engine.backlog.is_waiting(role, LINK_QUEUE) and not engine.health[role].away
    # Changes of the experiment must arrive there before a run is made in it.
    if behind and not engine.waiting.wait(role, [LINK_QUEUE], identity_budget_seconds()):
        raise Unavailable("its experiment is still on its way there", sent=False)
    if any(is_run_on_its_way(engine, new.tags.get(tag)) for tag in RUN_ID_TAGS):
        raise Unavailable("its parent is still on its way there", sent=False)

    def make(primary: Side, experiment_id: str, tags: dict[str, str]) -> Run:
        entities = [RunTag(k, v) for k, v in tags.items()]
        return store_of(engine, primary).create_run(
            experiment_id, new.user_id, new.start_time, entities, new.name
        )

    def ask(primary: Side) -> Run:
        experiment_id = primary.experiments.at(new.experiment_id)
        if tried:  # the answer may have been lost: look before making a second one
            found = primary.ids.find_run([experiment_id], new.key)
            if found is not None:
                return found
        own, _ = primary.overflow.split_tags({**primary.ids.own_tags(new.tags), RUN_TAG: new.key})
        tried.append(True)
        try:
            return make(primary, experiment_id, own)
        except MlflowException as error:
            few = {k: v for k, v in own.items() if k in (RUN_TAG, MLFLOW_RUN_NAME)}
            if isinstance(classify_error(error), Unavailable) or not names_a_limit(
                str(error), error.error_code
            ):
                raise
            return make(primary, experiment_id, few)

    return engine.asking.ask_primary(ask)
