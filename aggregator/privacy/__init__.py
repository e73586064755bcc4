"""What rounds cost in privacy: what happened (`ledger`), what it costs (`accountant`), what is left (`budget`), what is said (`claim`)."""
