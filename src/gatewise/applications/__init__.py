"""What people come for. Each application is a `Config` and a `run(config)`; none knows another."""
