"""Commands on slides, models and the installation."""
