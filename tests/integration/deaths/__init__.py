"""Tests that have agents die, freeze and leave, all in one cluster: see `conftest.py`."""
