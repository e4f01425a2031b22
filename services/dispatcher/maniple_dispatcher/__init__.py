"""Maniple's dispatcher."""
