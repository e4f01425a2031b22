"""What goes out: to lanes, into waits, and out of lanes when its time is over."""
