"""Run a notebook from top to bottom and show its cells and their results in the terminal.

    python notebooks/run.py notebooks/quickstart.ipynb

The file itself is left as it is. The exit code is 1 if a cell fails.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def overwritten(text: str) -> str:
    """Return what a terminal would show of the text: after a carriage return a line begins anew."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def shown(output: Any) -> str:
    """Return one output of a cell as text; pictures and widgets are named by their text form."""
    if output.output_type == "stream":
        text = overwritten(output.text)
    elif output.output_type == "error":
        text = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
    else:
        text = output.data.get("text/plain", "")
    return text if sys.stdout.isatty() else COLOURS.sub("", text)


def prompt(number: int, source: str) -> str:
    """Return a cell's text as IPython shows it."""
    lead = f"In [{number}]: "
    rest = "...: ".rjust(len(lead))
    first, *others = source.rstrip().split("\n")
    return "\n".join([lead + first, *((rest + line).rstrip() for line in others)])


class Show:
    """Prints each cell when it begins and its results when it ends."""

    def __init__(self) -> None:
        self.number = 0

    def text(self, cell: Any, **_: Any) -> None:
        """Print a cell's prose, or its code before it runs."""
        if cell.cell_type == "markdown":
            print(f"\n{cell.source.strip()}", flush=True)
        elif cell.source.strip():
            self.number += 1
            print(f"\n{prompt(self.number, cell.source)}", flush=True)

    def results(self, cell: Any, **_: Any) -> None:
        """Print what a cell gave."""
        for output in cell.outputs:
            if text := shown(output).rstrip():
                print(text, flush=True)


def main(arguments: list[str]) -> int:
    """Run the notebook; returns 1 if a cell fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("notebook", type=Path)
    parser.add_argument(
        "--timeout", type=int, default=600, help="seconds that one cell may take (default 600)"
    )
    options = parser.parse_args(arguments)

    # The debugger of the kernel would warn about itself on the terminal.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    show = Show()
    notebook: Any = nbformat.read(options.notebook, as_version=4)
    # Sockets of the file system, in a folder of this run's: no port is opened, nothing can be overheard.
    config = Config()
    private = tempfile.TemporaryDirectory()
    config.ConnectionFileMixin.transport = "ipc"
    config.ConnectionFileMixin.connection_file = f"{private.name}/kernel.json"
    client = NotebookClient(
        notebook,
        timeout=options.timeout,
        kernel_name="python3",  # this environment's, whatever the notebook was written with
        resources={"metadata": {"path": str(options.notebook.resolve().parent)}},
        config=config,
        on_cell_start=show.text,
        on_cell_executed=show.results,
    )
    begun = time.monotonic()
    try:
        with private:
            client.execute()
    except CellExecutionError:
        print(f"\n{options.notebook}: cell {show.number} failed", flush=True)
        return 1
    except (CellTimeoutError, DeadKernelError) as error:
        print(f"\n{options.notebook}: cell {show.number}: {error}", flush=True)
        return 1
    print(f"\n{options.notebook}: {show.number} cells ran in {time.monotonic() - begun:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
