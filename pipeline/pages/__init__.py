"""Results as HTML that loads nothing: contact sheets, and the display of results in a notebook."""
