"""What a broker with the configuration of packaging/broker lets whom do; the protocol over it is tested elsewhere."""
