"""The demo: charging a customer under every pattern, with a bank, a shop and the services they need."""
