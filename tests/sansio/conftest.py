"""Hypothesis as these tests want it: no test fails for being slow."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sansio", settings(), deadline=None)
settings.load_profile("sansio")
