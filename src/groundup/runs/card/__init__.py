"""The model card of a run. `writing` is the way in."""
