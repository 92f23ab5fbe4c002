"""Where jobs run: `spec` says what a job is, a launcher says where; fingerprints are the same on every launcher."""
