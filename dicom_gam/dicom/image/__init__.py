"""From a received file to the pixels a viewer would show, or a named refusal."""
