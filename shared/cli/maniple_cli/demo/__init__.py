"""What `maniple demo` does: a cluster analyses real source files, and every result is checked."""
