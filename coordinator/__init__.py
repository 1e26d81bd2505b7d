"""The coordinator: plans jobs, leases shards, decides commits. Never imports `sidecar` or `predictor`."""
