"""What the API shows, as types: shared by the endpoints that make them and the client that reads them; no web framework."""
