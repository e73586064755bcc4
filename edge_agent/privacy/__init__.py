"""What this device has given to training runs, and the limits that it enforces itself."""
