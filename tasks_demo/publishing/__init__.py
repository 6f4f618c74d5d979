"""Jobs that people publish by hand: which tasks they may choose, what they type, and a failed job that is to run again."""
