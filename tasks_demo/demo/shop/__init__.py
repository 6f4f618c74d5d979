"""The shop: the demo's business data, orders and bookings."""
