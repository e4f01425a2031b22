"""Maniple's registry."""
