"""Client of a ServiceX server: configuration, REST, submitting, and URLs of results."""
