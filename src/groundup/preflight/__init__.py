"""The checks that run before the first step."""

from groundup.preflight.essentials import check_essentials

__all__ = ["check_essentials"]
