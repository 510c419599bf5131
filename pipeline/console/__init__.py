"""What people see: help, progress and the final report."""
