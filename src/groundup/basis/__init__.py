"""What everything stands on: errors, settings, durations, seeding, files that appear whole or not at all, pictures."""
