"""``python -m dbml_magics status|sync``: the remembered link of this folder, for shells and schedulers.

Exit codes: 0 when all is well, 1 when the command failed, 2 when the line cannot be read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dbml_magics import display
from dbml_magics._version import __version__
from dbml_magics.commands import COMMANDS
from dbml_magics.errors import BadCommand, DbmlError, SecretRefused
from dbml_magics.parser import HelpRequested, command_help, parse, suggestion
from dbml_magics.secrecy import refuse_secrets

_PROG = "python -m dbml_magics"
_OFFERED = ("status", "sync")
_USAGE = "\n".join(
    [
        f"usage: {_PROG} status|sync [options]",
        "",
        *(f"  {name:<8}{COMMANDS[name].help}" for name in _OFFERED),
        "",
        "Both take up the link that is remembered for this folder.",
    ]
)


def main(arguments: Sequence[str]) -> int:
    """Run one command, and return the exit code."""
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
        raise BadCommand(f"{_PROG} knows {' and '.join(_OFFERED)} alone.{hint}", remedies=[remedy])
    command = COMMANDS[name]
    if {"-h", "--help"} & set(rest):
        raise HelpRequested(_in_shell_words(command_help(command)))
    args = parse(command, rest, {})
    from dbml_magics.core.session import current

    session = current()
    session.link(again=True)
    assert command.run is not None
    print(_in_shell_words(str(command.run(args, session))))
    return 0


def _fail(error: DbmlError, code: int) -> int:
    print(_in_shell_words("\n".join(error.lines())), file=sys.stderr)
    return code


def _in_shell_words(shown: str) -> str:
    """Write the commands that a shell has as a shell has them."""
    for name in _OFFERED:
        shown = shown.replace(f"%dbml {name}", f"{_PROG} {name}")
    return shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
