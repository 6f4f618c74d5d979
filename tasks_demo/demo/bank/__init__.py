"""A small payment service with its own database. Other packages may import ``bank.client`` only."""
