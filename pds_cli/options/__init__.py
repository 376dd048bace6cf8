"""What can be said on a command line: types, ranges and words of every key; imports no torch."""
