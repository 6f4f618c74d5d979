"""Jobs published by hand: which tasks are allowed, how input is parsed, and how a failed job is run again."""
