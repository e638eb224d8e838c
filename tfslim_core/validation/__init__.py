"""Validation as a Beam job. Import from the modules; this file imports nothing, since Beam takes seconds to import."""
