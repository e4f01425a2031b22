"""The kinds of policy: a module for each, with what its documents may say. Pure."""
