"""Measurements of speed, as ratios within one process; nothing else imports this."""
