"""What people call: everything of ``fedge-agent`` but the resident ``run``. May import typer and rich."""
