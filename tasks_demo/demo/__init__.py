"""The demo: charges a customer under every pattern, with a bank, a shop and the servers that they need."""
