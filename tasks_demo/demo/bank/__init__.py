"""The outside world: a small payment service with its own database. Only ``bank.client`` may be imported elsewhere."""
