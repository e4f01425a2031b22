"""What `maniple demo` runs: a cluster analyses real source files, and every result is checked."""
