"""A small payment service with a database of its own. Nothing but ``bank.client`` may be imported elsewhere."""
