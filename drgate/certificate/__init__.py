"""The certificate: its statement, signatures, keys, who is trusted, and the chain that looks are logged in."""
