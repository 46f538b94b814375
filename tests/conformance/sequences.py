"""Random sequences of calls, drawn by hypothesis and played like the stories of the table.

A step is an operation with three small numbers, which choose among what the sequence has made so far. Names
are few, so that they collide; calls on what was deleted, renamed or never made are as likely as any other.
A sequence that differs is made smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
    ViewType,
)

from tests.conformance.places import LinkedPlace, Places, PlainPlace
from tests.conformance.player import Player, Story
from tests.conformance.table import Compared, compare

Step = tuple[str, int, int, int]
MISSING = "0" * 32


@dataclass
class Made:
    """What a sequence has made at one place, in order."""

    experiments: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    def experiment(self, number: int) -> str:
        """Return the id of one of the experiments."""
        return self.experiments[number % len(self.experiments)]

    def run(self, number: int) -> str:
        """Return the id of one of the runs."""
        return self.runs[number % len(self.runs)] if self.runs else MISSING

    def model(self, number: int) -> str:
        """Return the id of one of the logged models."""
        return self.models[number % len(self.models)] if self.models else f"m-{MISSING}"


Operation = Callable[[Player, Made, int, int, int], object]
OPERATIONS: dict[str, Operation] = {}
LETTERS = "abc"


def operation(tell: Operation) -> Operation:
    """Add a function to what sequences are made of."""
    OPERATIONS[tell.__name__.replace("_", " ")] = tell
    return tell


def letter(p: Player, number: int) -> str:
    """Return one of the few names."""
    return p.name(LETTERS[number % len(LETTERS)])


@operation
def create_experiment(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Make an experiment, perhaps of a name that is taken."""
    own = p.client.create_experiment(letter(p, a), tags={"k": str(b)})
    if isinstance(own, str):
        made.experiments.append(own)


@operation
def rename_experiment(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Rename an experiment, perhaps to a name that is taken."""
    p.client.rename_experiment(made.experiment(a), letter(p, b))


@operation
def delete_experiment(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Delete an experiment, perhaps a second time."""
    p.client.delete_experiment(made.experiment(a))


@operation
def restore_experiment(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Bring an experiment back, perhaps one that is active."""
    p.client.restore_experiment(made.experiment(a))


@operation
def tag_experiment(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Set a tag of an experiment, or delete it."""
    if c % 2:
        p.client.delete_experiment_tag(made.experiment(a), "k")
    else:
        p.client.set_experiment_tag(made.experiment(a), "k", str(b))


@operation
def create_run(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Begin a run, perhaps within another."""
    tags = {"mlflow.parentRunId": made.run(b)} if c % 3 == 0 else None
    # Searches order by start and name: no two runs have both.
    name = f"run {b} of {len(made.runs)}"
    run = p.client.create_run(made.experiment(a), start_time=100 + b, tags=tags, run_name=name)
    if hasattr(run, "info"):
        made.runs.append(run.info.run_id)


@operation
def log_metric(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Log a point; a few values, times and steps, so that points meet."""
    p.client.log_metric(made.run(a), "mn"[b % 2], float(c), timestamp=b, step=c % 3)


@operation
def log_metric_of_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Log a point of a logged model."""
    p.client.log_metric(made.run(a), "m", float(c), timestamp=b, step=c % 3, model_id=made.model(b))


@operation
def log_param(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Log a param, perhaps with another value than it has."""
    p.client.log_param(made.run(a), "pq"[b % 2], c % 2)


@operation
def log_batch(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Log a batch, of which one part may be refused."""
    p.client.log_batch(
        made.run(a), [Metric("m", float(c), b, c)], [Param("pq"[b % 2], str(c % 2))], [RunTag("t", str(c))]
    )


@operation
def set_tag(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Set a tag of a run, or delete it."""
    if c % 3 == 0:
        p.client.delete_tag(made.run(a), "tu"[b % 2])
    else:
        p.client.set_tag(made.run(a), "tu"[b % 2], c)


@operation
def name_run(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Give a run another name, by either call."""
    if c % 2:
        p.client.set_tag(made.run(a), "mlflow.runName", f"named {b}")
    else:
        p.client.update_run(made.run(a), name=f"named {b}")


@operation
def end_run(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """End a run, or begin it again."""
    if c % 4 == 0:
        p.client.update_run(made.run(a), status="RUNNING")
    else:
        p.client.set_terminated(made.run(a), ("FINISHED", "FAILED", "KILLED")[b % 3], 1000 + c)


@operation
def delete_run(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Delete a run."""
    p.client.delete_run(made.run(a))


@operation
def restore_run(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Bring a run back."""
    p.client.restore_run(made.run(a))


@operation
def log_text(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Write a file, perhaps once more."""
    p.client.log_text(made.run(a), f"text {c}", f"{'fg'[b % 2]}.txt")


@operation
def log_dataset(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Log a data set as an input."""
    data = Dataset("data", f"digest {b % 2}", "local", "data.csv")
    p.client.log_inputs(made.run(a), [DatasetInput(data, [InputTag("k", str(c % 2))])])


@operation
def create_logged_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Make a logged model, of a run or of none."""
    source = made.run(b) if made.runs and c % 3 else None
    model = p.client.create_logged_model(
        made.experiment(a), f"model {b}", source, {"t": str(b)}, {"p": str(c)}
    )
    if hasattr(model, "model_id"):
        made.models.append(model.model_id)


@operation
def change_logged_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Change a logged model's tags or params, or end its making."""
    own = made.model(a)
    if c % 4 == 0:
        p.client.finalize_logged_model(own, ("READY", "FAILED")[b % 2])
    elif c % 4 == 1:
        p.client.set_logged_model_tags(own, {"t": str(b)})
    elif c % 4 == 2:
        p.client.delete_logged_model_tag(own, "t")
    else:
        p.client.log_model_params(own, {"pq"[b % 2]: str(c)})


@operation
def delete_logged_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Delete a logged model."""
    p.client.delete_logged_model(made.model(a))


@operation
def link_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Name a logged model as an input or output of a run."""
    if c % 2:
        p.client.log_inputs(made.run(a), models=[LoggedModelInput(made.model(b))])
    else:
        p.client.log_outputs(made.run(a), [LoggedModelOutput(made.model(b), c)])


@operation
def create_registered_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Make a registered model, perhaps of a name that is taken."""
    p.client.create_registered_model(letter(p, a), {"k": str(b)}, f"words {c}")


@operation
def change_registered_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Rename, describe, tag or delete a registered model."""
    name = letter(p, a)
    if c % 5 == 0:
        p.client.rename_registered_model(name, letter(p, b))
    elif c % 5 == 1:
        p.client.update_registered_model(name, f"words {b}")
    elif c % 5 == 2:
        p.client.set_registered_model_tag(name, "k", str(b))
    elif c % 5 == 3:
        p.client.delete_registered_model_tag(name, "k")
    else:
        p.client.delete_registered_model(name)


@operation
def create_version(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Register a version, of a run's files or a logged model's."""
    source = f"models:/{made.model(b)}" if c % 3 == 0 and made.models else f"runs:/{made.run(b)}/f.txt"
    p.client.create_model_version(letter(p, a), source, made.run(b) if made.runs else None, {"k": str(c)})


@operation
def change_version(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Change, alias, copy or delete a version."""
    name, version = letter(p, a), str(b % 3 + 1)
    if c % 6 == 0:
        p.client.set_model_version_tag(name, version, "k", str(c))
    elif c % 6 == 1:
        p.client.set_registered_model_alias(name, "best", version)
    elif c % 6 == 2:
        p.client.delete_registered_model_alias(name, "best")
    elif c % 6 == 3:
        p.client.copy_model_version(f"models:/{name}/{version}", letter(p, a + 1))
    elif c % 6 == 4:
        p.client.transition_model_version_stage(name, version, ("Staging", "Production")[b % 2], c % 4 == 0)
    else:
        p.client.delete_model_version(name, version)


@operation
def read_run(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Read a run."""
    p.client.get_run(made.run(a))
    p.client.get_metric_history(made.run(a), "m")
    p.client.list_artifacts(made.run(a))


@operation
def read_experiment(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Read an experiment and its runs."""
    p.client.get_experiment(made.experiment(a))
    p.client.get_experiment_by_name(letter(p, b))
    order = ["attributes.start_time", "attributes.run_name"]
    p.client.search_runs([made.experiment(a)], "", (ViewType.ACTIVE_ONLY, ViewType.ALL)[c % 2], 50, order)


@operation
def read_model(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Read a logged model."""
    p.client.get_logged_model(made.model(a))


@operation
def read_registry(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Read a registered model and one of its versions."""
    p.client.get_registered_model(letter(p, a))
    p.client.get_model_version(letter(p, a), str(b % 3 + 1))
    p.client.get_model_version_by_alias(letter(p, a), "best")
    p.client.search_model_versions(f"name = '{letter(p, a)}'", order_by=["version_number ASC"])


@operation
def wait(p: Player, made: Made, a: int, b: int, c: int) -> None:
    """Wait until all is delivered."""
    p.settle()


NUMBERS = st.integers(0, 11)
STEPS = st.lists(
    st.tuples(st.sampled_from([*OPERATIONS]), NUMBERS, NUMBERS, NUMBERS), min_size=6, max_size=30
)


def as_story(name: str, steps: list[Step]) -> Story:
    """Return a sequence as a story; two experiments and a run are there when it begins."""

    def tell(p: Player) -> None:
        made = Made()
        for number in range(2):
            create_experiment(p, made, number, 0, 0)
        create_run(p, made, 0, 0, 1)
        for what, a, b, c in steps:
            OPERATIONS[what](p, made, a, b, c)

    return Story(name, tell)


class Sequences:
    """Plays sequences one after another on plain MLflow and through one link."""

    def __init__(self, places: Places, linked: LinkedPlace) -> None:
        self.places, self.linked = places, linked
        self.plain: PlainPlace = places.plainly()
        self.played = self.steps = 0
        self.warned: list[str] = []  # what the link warned of in the last one

    def play(self, steps: list[Step]) -> Compared:
        """Play one sequence, and compare."""
        self.played += 1
        self.steps += len(steps)
        group = f"sequences {self.played}"
        story = as_story(f"{group}/s", steps)
        expected = self.plain.play(story)
        self.linked.played.clear()
        found = self.linked.play(story)
        compared = compare(story.name, expected, found, self.places.standing(group))
        self.warned = found.warned
        return compared

    def search(self, examples: int, *, fixed: bool) -> None:
        """Draw and play so many sequences; raises AssertionError with the smallest one that differs."""

        @settings(
            max_examples=examples,
            derandomize=fixed,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        @given(STEPS)
        def one(steps: list[Step]) -> None:
            compared = self.play(steps)
            listed = "\n".join(f"   {each}," for each in steps)
            differs = "\n".join(f"   {each}" for each in (*compared.unjudged, *self.warned))
            assert not compared.unjudged, f"the link differs from plain MLflow after\n{listed}\n{differs}"

        one()
