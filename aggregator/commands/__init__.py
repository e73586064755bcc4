"""What people call beside the service, one module for each command; may import rich and typer."""
