"""What the lab draws: the theme, the static figures, the maps of residuals and the live curves."""
