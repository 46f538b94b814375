"""Arrows between modules run one way: down the layers, and in no circle."""

from __future__ import annotations

from tests.arrows import PAGE, arrows, circles, layer_of, page, reached_from


def test_no_module_imports_one_of_a_layer_above() -> None:
    upwards = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in others
        if layer_of(other) > layer_of(name)
    ]
    assert not upwards


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles() == []


OUTBOX = "dbml_magics.core.outbox"


def test_the_outbox_knows_neither_workspaces_nor_delivery() -> None:
    """Of the core it takes the operations and what holds signals back, and nothing else."""
    found = {
        (name, other)
        for name, others in arrows().items()
        for other in others
        if name.startswith(OUTBOX) and other.startswith("dbml_magics.core.") and not other.startswith(OUTBOX)
    }
    known = {f"dbml_magics.core.{name}" for name in ("interrupts", "model.facts", "model.operations")}
    assert {other for _, other in found} == known, found


WRITERS = "dbml_magics.core.delivery.writers"


def test_no_writer_reaches_the_engine() -> None:
    """They get what they need of the link when they are made."""
    writers = {name for name in arrows() if name.startswith(WRITERS)}
    assert writers
    reached = {(name, other) for name in writers for other in reached_from(name)}
    assert not {pair for pair in reached if pair[1] == "dbml_magics.core.runtime.engine"}


def test_the_keys_of_the_state_belong_to_the_outbox() -> None:
    table = f"{OUTBOX}.answers"
    users = {name for name, others in arrows().items() if table in others}
    assert all(name.startswith(OUTBOX) for name in users), users


def test_the_model_imports_nothing_of_the_core() -> None:
    """It is what all of the core speaks of."""
    model = "dbml_magics.core.model"
    found = {
        (name, other)
        for name, others in arrows().items()
        for other in others
        if name.startswith(model) and other.startswith("dbml_magics.core.") and not other.startswith(model)
    }
    assert not found


def test_what_journals_and_delivers_imports_nothing_of_the_plugin() -> None:
    """MLflow calls the plugin, the plugin calls the engine; the engine finds files as MLflow does."""
    plugin, rooms = "dbml_magics.core.plugin", ("model", "outbox", "destinations", "delivery", "runtime")
    found = {
        (name, other)
        for name, others in arrows().items()
        for other in others
        if name.split(".")[2:3] in ([room] for room in rooms) and other.startswith(plugin)
    }
    assert not found


def test_the_page_of_the_arrows_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "python -m tests.arrows --write draws it anew"
