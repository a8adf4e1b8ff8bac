"""Exports: files of a run that work without groundup, each checked against the run. `exporting` is the way in."""
