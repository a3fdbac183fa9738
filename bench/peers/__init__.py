"""One program for each peer; each has a function for each case it can run."""
