"""One thin file per verb: options to records, one call, one record shown."""
