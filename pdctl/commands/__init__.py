"""The verbs. VERB.py declares the options; VERB_run.py, imported when it runs, does the work."""
