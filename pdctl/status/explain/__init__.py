"""Why was a request slow? Joins both halves of its log lines, splits its time, finds the cause."""
