"""The policies' part: what becomes of an admitted task before its lane."""
