"""The keys that are pressed in a panel are the panel's, and what had the focus gets it back.

A notebook takes a letter that is pressed outside of a text field for a command: to choose in a list by ``x``
would cut the cell. And a control that is disabled while its command runs loses the focus, so that whoever
works by keys would begin at the top of the page again, with the notebook's commands under their fingers.
"""

from __future__ import annotations

import html

__all__ = ["KEYS"]

_NOTHING = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
# Lumino, which JupyterLab and Notebook 7 are built on, takes no key for a command of its own where what has
# the focus has that attribute. Keys with Ctrl or Alt stay the notebook's: saving, its palette.
_INSTALL = """if (!window.dbmlKeys) {
  window.dbmlKeys = true;
  const panel = at => at instanceof Element ? at.closest('.dbml-panel') : null;
  let last = null;
  window.addEventListener('keydown', event => {
    const own = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (panel(event.target)) event.target.toggleAttribute('data-lm-suppress-shortcuts', own);
  }, true);
  window.addEventListener('focusin', event => {
    if (panel(event.target) !== event.target) last = panel(event.target) && event.target;
  }, true);
  window.addEventListener('pointerdown', event => { if (!panel(event.target)) last = null; }, true);
  new MutationObserver(() => {
    const now = document.activeElement;
    if (!last || !panel(last) || (now !== document.body && now !== panel(last))) return;
    panel(last).tabIndex = -1;
    (last.disabled ? panel(last) : last).focus({preventScroll: true});
  }).observe(document.body, {subtree: true, attributes: true, attributeFilter: ['disabled']});
}"""

KEYS = f'<img alt="" hidden src="{_NOTHING}" onload="{html.escape(_INSTALL)}">'
