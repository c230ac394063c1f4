"""All attempts so far: the ledger, the check for repeated attempts, hand-kept logs, and `drtrain attempts`."""
