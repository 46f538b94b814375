"""What can go wrong, and what the user does about it.

Every error that a user can cause is a :class:`DbmlError`. Each carries its message (what failed and the
likely cause) and its remedies (the exact commands to run next), and renders itself as two or three lines
instead of a traceback. Anything else that escapes is a bug of ours and keeps its traceback.

::

    DbmlError
    ├── BadCommand            the line cannot be parsed: unknown command or option, missing or doubled value
    ├── SecretRefused         a token or password stands on the line or in a URI
    ├── UndefinedVariable     $name is not defined in the notebook
    ├── EmptyCell             %%track above nothing
    ├── PlatformRefused       this operating system is not supported
    ├── NotLinked             a command that needs a link, without one
    ├── BadLink               the link cannot be made as asked
    │   ├── BadUri            a malformed or unsupported workspace URI
    │   ├── NothingRemembered no link is remembered for this folder
    │   ├── WorkspaceNotFound no such Azure ML workspace, resource group or subscription
    │   └── RunActive         linking or unlinking under an active run
    ├── WorkspaceUnreachable  nothing answers, or not in time
    ├── NotMlflow             something answers that is not MLflow
    ├── NotPermitted          401 or 403, with what is missing
    ├── Refused               a workspace refused one write (sync mode, dead letters)
    ├── BadName               an experiment, model or alias name that a workspace would refuse
    ├── ExperimentNotFound    no experiment of that name
    ├── RunNotFound           no run matches
    ├── AmbiguousRun          several runs match
    ├── NoModel               the run has no model, or not at that path
    ├── ModelNotFound         no registered model or version of that name
    ├── DeliveryIncomplete    sync ended before everything was delivered
    ├── CleanupIncomplete     a clean-up that could not delete everything
    ├── NotConfirmed          a command that deletes wants what it deletes typed
    ├── ServerFailed          a server that a command started did not come up
    ├── NotDeployable     a model that cannot be served as it is; nothing was created
    ├── DeploymentFailed  a deployment that did not become ready, with its last log lines
    ├── EndpointNotFound  no endpoint or deployment of that name
    ├── BadData           data that does not have the model's signature, or cannot be read
    ├── ScoringFailed     an endpoint or a Spark job that did not answer with predictions
    ├── SparkUnavailable  no Spark to score with: no pyspark, no Java, or nothing that answers
    └── JournalError          the journal cannot be used
        ├── JournalFull       the disk or the spool is full
        └── JournalDamaged    a part of the journal cannot be read, or is of a newer format
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from dbml_magics.common import hints
from dbml_magics.common.foreign_text import one_line, visible
from dbml_magics.common.hints import Remedy
from dbml_magics.common.redaction import redacted

__all__ = [
    "AmbiguousRun",
    "BadCommand",
    "BadData",
    "BadLink",
    "BadName",
    "BadUri",
    "CleanupIncomplete",
    "DbmlError",
    "DeliveryIncomplete",
    "DeploymentFailed",
    "EmptyCell",
    "EndpointNotFound",
    "ExperimentNotFound",
    "JournalDamaged",
    "JournalError",
    "JournalFull",
    "ModelNotFound",
    "NoModel",
    "NotConfirmed",
    "NotDeployable",
    "NotLinked",
    "NotMlflow",
    "NotPermitted",
    "NothingRemembered",
    "PlatformRefused",
    "Refused",
    "RunActive",
    "RunNotFound",
    "ScoringFailed",
    "SecretRefused",
    "ServerFailed",
    "SparkUnavailable",
    "UndefinedVariable",
    "WorkspaceNotFound",
    "WorkspaceUnreachable",
]

Remedies = Iterable[str | tuple[str, str]]
"""What to run next: our commands as :class:`~dbml_magics.common.hints.Remedy`, others as they are typed."""


class DbmlError(Exception):
    """An error with a cause and a remedy, shown as two or three lines.

    ``remedies`` are commands to run next, each alone or in a pair (command, what it does), shown as their
    reader has them (:mod:`dbml_magics.common.hints`). They and the message may name what others have named,
    and quote servers: control characters and secrets do not come through.
    """

    def __init__(self, message: str, *, remedies: Remedies = ()) -> None:
        self.message = visible(redacted(message))
        super().__init__(self.message)
        # A typed line that is corrected in two ways may be the same line: it is shown once.
        cleaned: dict[str, tuple[str, str]] = {}
        for remedy in remedies:
            given, what = (remedy, "") if isinstance(remedy, str) else remedy
            command = given.changed(_clean) if isinstance(given, hints.Remedy) else _clean(given)
            cleaned.setdefault(command, (command, _clean(what)))
        self.remedies: tuple[tuple[str, str], ...] = tuple(cleaned.values())
        if hints.front_end() != "magic":
            # A plain traceback shows an exception's notes (from Python 3.11 on), and nothing else of ours.
            self.__notes__ = self.lines()[1:]

    def lines(self) -> list[str]:
        """Return what a user sees: the error's line, then one line for each remedy."""
        shown = [f"{type(self).__name__}: {self}"]
        remedies = [(hints.say(command), what) for command, what in self.remedies]
        width = max((len(command) for command, _ in remedies), default=0)
        for number, (command, what) in enumerate(remedies):
            lead = "  try  " if number == 0 else "       "
            shown.append(f"{lead}{command.ljust(width)}   {what}".rstrip() if what else f"{lead}{command}")
        return shown

    def __str__(self) -> str:
        return hints.worded(self.message)

    def _render_traceback_(self) -> list[str]:
        # IPython asks the exception itself; JupyterLab, nbclient and VS Code all show what it answers.
        return self.lines()


def _clean(text: str) -> str:
    return one_line(redacted(text))


class BadCommand(DbmlError):
    """The line cannot be parsed: unknown command or option, missing or doubled value."""


class SecretRefused(DbmlError):
    """A token or password stands on the line or in a URI; it is refused and never echoed."""


class UndefinedVariable(DbmlError):
    """``$name`` is not defined in the notebook."""


class EmptyCell(DbmlError):
    """``%%track`` stands above nothing."""


class PlatformRefused(DbmlError):
    """This operating system is not supported."""


class NotLinked(DbmlError):
    """The command needs a link, and there is none."""

    def __init__(self, what: str = "this command", *, again: bool = False) -> None:
        """``again``: a link is remembered for this folder, perhaps with writes that wait."""
        needs = f"{hints.say(what)} needs a link, and there is none in this {hints.place()}"
        if sys.platform == "win32":
            super().__init__(
                f"{needs}; on Windows itself none can be made: the journal needs POSIX file locks. "
                "Everything works in the Windows Subsystem for Linux on the same machine, and on any Linux.",
                remedies=[hints.WSL],
            )
            return
        super().__init__(
            f"{needs}.",
            remedies=[
                *([(Remedy("link", again=True), "the link remembered for this folder")] if again else []),
                (Remedy("link", local=True), "two workspaces on this machine"),
                (Remedy("link", databricks="URI", azureml="URI"), "any two MLflow workspaces"),
            ],
        )


class BadLink(DbmlError):
    """The link cannot be made as asked."""


class BadUri(BadLink):
    """A malformed or unsupported workspace URI."""


class NothingRemembered(BadLink):
    """No link is remembered for this folder."""


class WorkspaceNotFound(BadLink):
    """No such Azure ML workspace, resource group or subscription, or a name of something else."""


class RunActive(BadLink):
    """Linking or unlinking under an active run would lose the run."""


class WorkspaceUnreachable(DbmlError):
    """Nothing answers at the workspace, or not in time."""


class NotMlflow(DbmlError):
    """Something answers at the address that is not MLflow."""


class NotPermitted(DbmlError):
    """The workspace answered 401 or 403."""


class Refused(DbmlError):
    """A workspace refused one write."""


class BadName(DbmlError):
    """A name of an experiment, model or alias that a workspace would refuse."""


class ExperimentNotFound(DbmlError):
    """No experiment of that name."""


class RunNotFound(DbmlError):
    """No run matches."""


class AmbiguousRun(DbmlError):
    """Several runs match."""


class NoModel(DbmlError):
    """The run has no model, or none at that path."""


class ModelNotFound(DbmlError):
    """No registered model or version of that name."""


class DeliveryIncomplete(DbmlError):
    """``sync`` ended before everything was delivered; nothing is lost."""


class NotConfirmed(DbmlError):
    """A command that deletes wants what it deletes typed; nothing is deleted."""


class CleanupIncomplete(DbmlError):
    """A clean-up could not delete everything; ``result`` says what went and what did not."""

    result: object = None


class ServerFailed(DbmlError):
    """A server that a command started did not come up."""


class NotDeployable(DbmlError):
    """The model cannot be served as it is; nothing was created."""


class DeploymentFailed(DbmlError):
    """A deployment did not become ready; what was there before goes on."""


class EndpointNotFound(DbmlError):
    """No endpoint, or no deployment under it, has that name."""


class BadData(DbmlError):
    """The data to predict from cannot be read, or does not have the model's signature."""


class ScoringFailed(DbmlError):
    """An endpoint, or the job that scores, did not answer with predictions."""


class SparkUnavailable(DbmlError):
    """There is no Spark to score with."""


class JournalError(DbmlError):
    """The journal cannot be used."""


class JournalFull(JournalError):
    """The disk or the spool is full."""


class JournalDamaged(JournalError):
    """A part of the journal cannot be read, or it is of a newer format."""
