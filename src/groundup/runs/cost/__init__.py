"""Cost of a run: first passes (`measure`) multiplied up (`estimate`), parts of a step (`parts`, `bench`), the batch that fits."""
