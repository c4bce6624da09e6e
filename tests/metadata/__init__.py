"""What the room that speaks HTTP promises."""
