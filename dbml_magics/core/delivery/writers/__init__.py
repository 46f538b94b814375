"""What carries the journal's writes out at one workspace, a family of them in each module."""
