"""The operator API: training runs, over HTTPS with tokens. Everything but ``/healthz`` needs a token."""
