"""What a process says about itself: metrics, traces and structured logs. Imports nothing of ours but settings."""
