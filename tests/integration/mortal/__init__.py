"""Tests that have agents die, freeze and leave, most of them in one cluster: see `conftest.py`."""
