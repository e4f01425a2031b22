"""Maniple's agent."""
