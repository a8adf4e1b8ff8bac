"""Sweeps and their store, statistics over seeds, report pages."""
