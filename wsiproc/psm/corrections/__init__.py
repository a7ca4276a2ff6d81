"""A model that learns from corrected cells: ``windows`` (what is known of the slides), ``tuning`` (the model)."""
