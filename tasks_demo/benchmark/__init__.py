"""The benchmark: measures the costs of the patterns and the ledger as ratios, side by side in one run."""
