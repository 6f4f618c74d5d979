"""The processes of an experiment: workers and servers, and what injects faults into them."""
