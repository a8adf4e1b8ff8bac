"""Preflight of a recipe: findings, page, pictures. `checking` is the way in."""
