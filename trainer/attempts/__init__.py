"""All attempts so far: the ledger, the check for repeated attempts, logs in Markdown, and `drtrain attempts`."""
