"""The panel's forms: views over the same lines that the magics read, in ipywidgets' own widgets.

Nothing here is imported before somebody asks for the panel where widgets are shown.
"""
