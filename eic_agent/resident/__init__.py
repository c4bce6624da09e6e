"""The agent that stays: its socket, its clients, and what systemd hears of it."""
