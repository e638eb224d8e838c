"""SavedModels: reading, writing, comparing and serving them. Import from the modules; this file imports nothing."""
