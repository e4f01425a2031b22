"""The kinds of policy: a module for each, with its documents. Pure."""
