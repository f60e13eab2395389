"""The HTTP API for operators, health and metrics: requests in, documents out. What they mean is `coordinator`'s."""
