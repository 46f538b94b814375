"""``dbml-magics status|sync|doctor``: the link of this folder, for shells and schedulers.

``python -m dbml_magics`` is the same, but a module of that name in the current folder comes before it.

Exit codes: 0 when all is well; 1 when the command failed, its time was up before everything was delivered, or
the doctor finds something broken; 2 when the line cannot be read; 3 when it did what it was asked, and
something is left to be seen to: writes that a workspace refused for good, packages that could not be taken
up, differences between the workspaces.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dbml_magics import api
from dbml_magics._version import __version__
from dbml_magics.commands import COMMANDS, running
from dbml_magics.commands.grammar import command_help
from dbml_magics.commands.parser import HelpRequested, parse, suggestion
from dbml_magics.common import hints
from dbml_magics.common.secrecy import refuse_secrets
from dbml_magics.errors import BadCommand, DbmlError, SecretRefused
from dbml_magics.notebook import display
from dbml_magics.results.delivery import DeadLetters, RetryResult, SyncResult
from dbml_magics.results.link import LinkStatus
from dbml_magics.results.reconcile import RepairResult, VerifyResult

_PROG = "dbml-magics"
_OFFERED = hints.IN_SHELLS
_USAGE = "\n".join(
    [
        f"usage: {_PROG} {'|'.join(_OFFERED)} [options]",
        "",
        *(f"  {name:<8}{COMMANDS[name].help}" for name in _OFFERED),
        "",
        "They are about the link that is remembered for this folder; doctor works without one too.",
        "Exit codes: 0 all is well, 1 it failed or its time was up or the doctor finds something broken,",
        "2 the line cannot be read, 3 done, but writes were refused or the workspaces differ.",
    ]
)


def main(arguments: Sequence[str]) -> int:
    """Run one command, and return the exit code."""
    hints.speak("shell")
    try:
        return _run(list(arguments))
    except HelpRequested as asked:
        print(asked.shown)
        return 0
    except (BadCommand, SecretRefused) as error:
        return _fail(error, 2)
    except DbmlError as error:
        return _fail(error, 1)
    except Exception:
        display.defect(_PROG)
        raise


def _run(arguments: list[str]) -> int:
    refuse_secrets(" ".join(arguments), arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments == ["--version"]:
        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in _OFFERED:
        meant = suggestion(name, _OFFERED)
        hint = f' Did you mean "{meant}"?' if meant else ""
        remedy = f"{_PROG} {meant or 'status'}"
        raise BadCommand(f"{_PROG} knows {', '.join(_OFFERED)} alone.{hint}", remedies=[remedy])
    command = COMMANDS[name]
    if {"-h", "--help"} & set(rest):
        raise HelpRequested(command_help(command, _in_shell_words))
    args = parse(command, rest, {})
    screen = display.Screen()
    with screen.going(f"{_PROG} {name}"):
        if command.needs_link:
            api.link(again=True)
        result = running.run(command, args, screen)
    print(result)
    if getattr(result, "broken", ()):
        return 1
    return 3 if _wants_attention(result) else 0


def _wants_attention(result: object) -> bool:
    """Tell whether something is left that somebody has to see to."""
    if isinstance(result, LinkStatus):
        return any(destination.dead for destination in result.destinations)
    if isinstance(result, SyncResult):
        return bool(result.left) or any(result.dead.values())
    if isinstance(result, DeadLetters):
        return bool(result.letters)
    if isinstance(result, RetryResult):
        return bool(result.refused)
    if isinstance(result, VerifyResult):
        return bool(result.differences)
    return isinstance(result, RepairResult) and bool(result.remaining)


def _fail(error: DbmlError, code: int) -> int:
    print("\n".join(error.lines()), file=sys.stderr)
    return code


def _in_shell_words(shown: str) -> str:
    """Write a help's commands as a shell has them."""
    for name in _OFFERED:
        shown = shown.replace(f"%dbml {name}", f"{_PROG} {name}")
    return shown


def run() -> None:
    """Run the command of this process's arguments, and end with its exit code."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
