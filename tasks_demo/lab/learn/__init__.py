"""Learn: kill a worker at a point of a job's life, in recorded histories, and see how often the customer is charged."""
