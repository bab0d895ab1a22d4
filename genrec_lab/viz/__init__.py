"""The lab's visualisations: theme, static figures, maps of residuals, live curves and the explorer."""
