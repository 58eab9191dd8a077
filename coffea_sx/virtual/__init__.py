"""Events of one delivered file or of several, in one awkward array that reads what is touched."""
