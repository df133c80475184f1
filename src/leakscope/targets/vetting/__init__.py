"""What to know of a model or an update before an audit."""
