"""Finished runs and sweeps compared: what is real over seeds, on one page and in Markdown."""
