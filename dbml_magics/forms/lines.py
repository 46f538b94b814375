"""The line that a form makes: shown, to be copied as it is or as a Python call, or put into a cell.

A widget has no way to a notebook's cells but the page that it stands in. So the buttons are the page's own:
they copy by the browser, and press the notebook's button that adds a cell. Where the page has no such button
(VS Code, Colab, marimo) the line is copied, and that is said.
"""

from __future__ import annotations

import html

import ipywidgets as widgets

from dbml_magics.results.html import safe

__all__ = ["LineBox"]

_SAY = "const told = box.querySelector('.dbml-told'); const say = text => { told.textContent = text; };"
_COPY = """const copy = (text, said) => {
  const by_hand = () => {
    const area = document.createElement('textarea');
    area.value = text; box.appendChild(area); area.select();
    const done = document.execCommand('copy'); area.remove();
    say(done ? said : 'Select the line and copy it.');
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => say(said), by_hand);
  else by_hand();
};"""
_COPIES = f"""const box = this.closest('.dbml-made'); {_SAY} {_COPY}
copy(this.dataset.text, this.dataset.said);"""
_INSERTS = f"""const box = this.closest('.dbml-made'); {_SAY} {_COPY}
const text = this.dataset.text, page = this.closest('.jp-NotebookPanel');
const add = page && page.querySelector('[data-command="notebook:insert-cell-below"]');
const cells = () => page ? page.querySelectorAll('.jp-Notebook .jp-Cell').length : 0, before = cells();
const instead = () => copy(text, 'Copied: paste it into a cell. This page has no button that adds one.');
if (add) {{
  add.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true, cancelable: true, button: 0}}));
  let left = 40;
  const write = () => {{
    const editor = page.querySelector('.jp-Notebook .jp-Cell.jp-mod-active .cm-content');
    if (cells() > before && editor && editor.textContent === '') {{
      editor.focus();
      document.execCommand('insertText', false, text);
      say('A cell below has it.');
    }} else if (left--) setTimeout(write, 50);
    else instead();
  }};
  setTimeout(write, 50);
}} else instead();"""


class LineBox:
    """The line, and the buttons beside it."""

    def __init__(self) -> None:
        self.box = widgets.HTML()
        self.box.add_class("dbml-line")

    @property
    def value(self) -> str:
        """Return what is shown."""
        return str(self.box.value)

    def show(self, line: str, python: str, *, complete: bool) -> None:
        """Show a line; it can be taken away once it is complete."""
        buttons = "".join(
            [
                _button("Copy", _COPIES, line, "Copied.", "Copy the line", complete),
                _button("Copy as Python", _COPIES, python, "Copied as Python.", python, complete),
                _button("Insert as cell", _INSERTS, line, "", "Put the line into a cell below", complete),
            ]
        )
        self.box.value = (
            f'<div class="dbml-made"><code tabindex="0">{safe(line)}</code>'
            f'<span class="dbml-takes">{buttons}<span class="dbml-told" role="status"></span></span></div>'
        )


def _button(label: str, script: str, text: str, said: str, about: str, enabled: bool) -> str:
    """Return a button whose script is always the same; what it takes stands in its data."""
    disabled = "" if enabled else " disabled"
    return (
        f'<button type="button" class="dbml-take" title="{safe(about)}" data-text="{safe(text)}" '
        f'data-said="{safe(said)}" onclick="{html.escape(script)}"{disabled}>{safe(label)}</button>'
    )
