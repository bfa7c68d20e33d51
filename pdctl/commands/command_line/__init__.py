"""The command line as a whole: its verbs, groups of options, completion, JSON."""
