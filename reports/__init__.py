"""What is shown: records, their store, charts, HTML. No torch here."""
