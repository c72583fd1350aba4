"""Data sets: found where the user says, downloaded with a checksum where they are not, prepared once and cached."""
