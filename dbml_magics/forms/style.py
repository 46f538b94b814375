"""What the panel looks like: the theme's colours, a focus that is seen, words for a kernel that is gone."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """<style>
.dbml-panel { max-width: 1100px; border: 1px solid var(--jp-border-color1, #8a8a8a); border-radius: 4px;
  padding: 8px 12px; color: var(--jp-ui-font-color1, inherit); overflow: visible; }
.dbml-panel .widget-label, .dbml-panel .widget-html-content, .dbml-panel .jupyter-widget-html-content {
  color: var(--jp-ui-font-color1, inherit); line-height: 1.45; }
.dbml-panel .widget-label { overflow: visible; text-overflow: clip; white-space: normal; }
.dbml-panel input:not([type=checkbox]), .dbml-panel select { color: var(--jp-ui-font-color1, inherit);
  border: 1px solid var(--jp-ui-font-color2, #666); }
.dbml-panel:focus { outline: none; }
.dbml-panel :focus-visible { outline: 3px solid #1a73e8; outline-offset: 1px; }
.dbml-panel button { height: auto; min-height: 28px; }
.dbml-panel button.mod-primary { background: #0b57b0; color: #fff; }
.dbml-panel button:disabled { opacity: 1; background: var(--jp-layout-color2, #eee); box-shadow: none;
  border: 1px solid var(--jp-border-color2, #ccc); color: var(--jp-ui-font-color2, #666);
  cursor: not-allowed; }
/* The widgets' boxes scroll what is a pixel too high for them. */
.dbml-panel :is(.widget-box, .jupyter-widgets, .widget-html-content) { overflow: visible; }
.dbml-panel .dbml-tabs { margin: 0 -12px 8px; padding: 0 12px; width: auto; height: auto;
  border-bottom: 1px solid var(--jp-border-color1, #8a8a8a); }
.dbml-panel .dbml-tabs > .widget-label { display: none; }
.dbml-panel .dbml-tabs button { background: transparent; box-shadow: none; border: none; margin: 0 4px -1px 0;
  border-bottom: 3px solid transparent; padding: 4px 10px; color: var(--jp-ui-font-color1, inherit); }
.dbml-panel .dbml-tabs button.mod-active { border-bottom-color: #1a73e8; font-weight: bold; }
.dbml-panel .dbml-linked { color: var(--jp-ui-font-color2, inherit); }
.dbml-panel .dbml-about { margin: 2px 0 6px; }
.dbml-panel :is(.dbml-more, .dbml-more.mod-active) { background: transparent; box-shadow: none;
  color: var(--jp-ui-font-color1, inherit); padding-left: 0; }
.dbml-panel .dbml-field { margin: 1px 0; }
.dbml-panel .dbml-hint { color: var(--jp-ui-font-color2, inherit); margin-left: 4px; }
.dbml-panel .dbml-message { flex: 0 0 auto; width: calc(100% - 198px); margin-left: 198px; height: auto; }
.dbml-panel .dbml-foot { margin-top: 6px; }
.dbml-panel .dbml-go { margin-right: 12px; padding: 0 18px; }
.dbml-panel .dbml-line { flex: 1 1 300px; min-width: 0; }
.dbml-panel .dbml-made { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: baseline; }
.dbml-panel .dbml-take { background: transparent; border: none; padding: 0 4px; cursor: pointer;
  font: inherit; min-height: 24px; color: var(--jp-content-link-color, #0b57b0); text-decoration: underline; }
.dbml-panel .dbml-take:disabled { background: transparent; border: none; text-decoration: none;
  cursor: default; color: var(--jp-ui-font-color2, #666); }
.dbml-panel .dbml-told { margin-left: 4px; }
.dbml-panel th button { background: transparent; border: none; padding: 0; cursor: pointer; font: inherit;
  min-height: 24px; color: inherit; font-weight: bold; }
.dbml-panel th button:hover { text-decoration: underline; }
.dbml-panel .dbml-runs :is(td, th) { padding-right: 22px; }
.dbml-panel .dbml-runs caption { text-align: left; white-space: nowrap; padding-bottom: 4px; }
.dbml-panel .dbml-runs :is(td, th) { white-space: nowrap;
  border-bottom: 1px solid var(--jp-border-color2, #ccc); }
.dbml-panel .dbml-finished { color: #1b6e2d; }
.dbml-panel :is(.dbml-failed, .dbml-killed) { color: #b3261e; }
.dbml-panel .dbml-running { color: #0b57b0; }
[data-jp-theme-light="false"] .dbml-panel .dbml-finished { color: #7fd08f; }
[data-jp-theme-light="false"] .dbml-panel :is(.dbml-failed, .dbml-killed) { color: #ff9d94; }
[data-jp-theme-light="false"] .dbml-panel .dbml-running { color: #8ab4f8; }
.dbml-panel code { user-select: all; font-family: var(--jp-code-font-family, monospace); }
.dbml-panel .dbml-line code { display: inline-block; max-width: 100%; box-sizing: border-box;
  padding: 2px 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; border: 1px solid var(--jp-border-color1, #8a8a8a); }
.dbml-panel pre { white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; margin: 4px 0;
  line-height: 1.4; font-family: var(--jp-code-font-family, monospace); }
.dbml-panel .dbml-error { border-left: 4px solid #b3261e; padding-left: 8px; }
.dbml-panel .dbml-result { overflow-x: auto; }
.dbml-panel table { border-collapse: collapse; }
.dbml-panel th, .dbml-panel td { padding: 2px 10px 2px 0; text-align: left; white-space: normal; }
.dbml-panel a { color: var(--jp-content-link-color, #0b57b0); text-decoration: underline; }
/* In a narrow panel each label stands above its field. */
.dbml-panel { container-type: inline-size; }
.dbml-panel .dbml-row > * { margin-right: 6px; }
.dbml-panel .dbml-beside > .widget-label { width: auto; margin: 0 6px 0 12px; }
.dbml-panel input { text-overflow: ellipsis; }
.dbml-panel .widget-checkbox { height: auto; }
.dbml-panel .widget-checkbox :is(.widget-label, .widget-label-basic) { white-space: normal;
  overflow: visible; }
.dbml-panel .widget-checkbox input[type=checkbox] { flex-grow: 0; }
@container (max-width: 640px) {
  .dbml-panel .dbml-message { width: 100%; margin-left: 0; }
  .dbml-panel :is(.dbml-commands, .dbml-way) { flex-direction: column; align-items: stretch; height: auto; }
  .dbml-panel :is(.dbml-commands, .dbml-way) .widget-label { text-align: left; width: auto !important; }
  .dbml-panel :is(.dbml-commands, .dbml-way) > select { flex: 0 0 28px; width: 100%; }
  .dbml-panel .dbml-runs > .widget-hbox:has(> .dbml-match) {
    flex-flow: row nowrap !important; align-items: flex-end !important; }
  .dbml-panel .dbml-match .widget-label { text-align: left; width: auto !important; }
  .dbml-panel .dbml-match > input { flex: 0 0 28px; width: 100%; }
  .dbml-panel .dbml-match, .dbml-panel .dbml-row > .widget-text:not(.dbml-beside),
  .dbml-panel .dbml-row > .widget-dropdown {
    flex-direction: column; align-items: stretch; height: auto; }
  .dbml-panel .dbml-row:has(> button) { align-items: flex-end !important; }
  .dbml-panel .dbml-row .widget-label { text-align: left; width: auto !important; }
  .dbml-panel .dbml-row > .widget-text:not(.dbml-beside) > input,
  .dbml-panel .dbml-row > .widget-dropdown > select { flex: 0 0 28px; width: 100%; }
  .dbml-panel .dbml-row > .widget-checkbox > .widget-label { display: none; }
}
/* The widgets' own arrow is a fixed grey, hardly seen on black. */
.dbml-panel .widget-dropdown > select { appearance: none; padding-right: 26px; background-repeat: no-repeat;
  background-image: linear-gradient(45deg, transparent 50%, currentColor 50%),
    linear-gradient(135deg, currentColor 50%, transparent 50%);
  background-position: right 13px center, right 8px center; background-size: 5px 5px; }
[data-jp-theme-light="false"] .dbml-panel { color-scheme: dark; }
/* The kernel is gone: one message instead of a mark at each widget; nothing looks as if it worked. */
.dbml-panel.jupyter-widgets-disconnected .jupyter-widgets-disconnected::before {
  content: none; display: none; }
.dbml-panel.jupyter-widgets-disconnected::before { display: block; font: bold 1em/1.45 sans-serif;
  padding: 4px 8px; margin-bottom: 6px; border-left: 4px solid #b3261e;
  color: var(--jp-ui-font-color1, inherit);
  content: "✗ This panel's kernel is gone: its buttons do nothing any more. Run its cell again."; }
.dbml-panel.jupyter-widgets-disconnected :is(button, input, select) { pointer-events: none; box-shadow: none;
  background: transparent; border: 1px solid var(--jp-border-color2, #ccc);
  color: var(--jp-ui-font-color2, #666); text-decoration: none; font-weight: normal; accent-color: #777; }
.dbml-panel.jupyter-widgets-disconnected button.mod-active { font-weight: bold; }
.dbml-panel.jupyter-widgets-disconnected :is(button, input, select):hover { box-shadow: none; }
</style>"""
