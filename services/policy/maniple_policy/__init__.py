"""Maniple's policy."""
