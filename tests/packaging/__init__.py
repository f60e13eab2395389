"""What is handed out: the wheel, the service, and pages that must say what the code does."""
