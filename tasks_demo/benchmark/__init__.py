"""The benchmark: ratios of cost, measured side by side."""
