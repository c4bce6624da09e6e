"""`make bench`: what lookups and logins cost, beside a bare interpreter and the reference."""
